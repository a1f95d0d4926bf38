"""Web sites as any room builds them: pages, languages, static files, REST, and calls of other servers."""
