"""Shows the cardholder what happened."""
