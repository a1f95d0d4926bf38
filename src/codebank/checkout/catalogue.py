"""The catalogue: what the shop sells, in both languages. Prices are the server's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One thing on sale."""

    slug: str
    price_minor: int
    name_pt: str
    name_en: str
    about_pt: str
    about_en: str

    def name(self, language: str) -> str:
        """Give the name in a language."""
        return self.name_en if language == "en" else self.name_pt

    def about(self, language: str) -> str:
        """Give the description in a language."""
        return self.about_en if language == "en" else self.about_pt


def _product(slug: str, price_minor: int, names: tuple[str, str], abouts: tuple[str, str]) -> Product:
    return Product(
        slug=slug,
        price_minor=price_minor,
        name_pt=names[0],
        name_en=names[1],
        about_pt=abouts[0],
        about_en=abouts[1],
    )


CATALOGUE: Final = (
    _product(
        "cafe-especial", 5_490, ("Café especial 500 g", "Speciality coffee 500 g"),
        ("Grãos do sul de Minas, torra média, notas de chocolate e laranja.",
         "Beans from the south of Minas, medium roast, notes of chocolate and orange."),
    ),
    _product(
        "caneca-esmaltada", 8_990, ("Caneca esmaltada", "Enamel mug"),
        ("Ágata como a da casa da avó: leve, resistente e boa de levar.",
         "Enamel like grandmother's: light, tough and good company on the road."),
    ),
    _product(
        "rede-de-algodao", 34_900, ("Rede de algodão", "Cotton hammock"),
        ("Tecida no Ceará, para duas pessoas ou uma tarde inteira.",
         "Woven in Ceará, for two people or one whole afternoon."),
    ),
    _product(
        "moringa-de-barro", 12_900, ("Moringa de barro", "Clay water jug"),
        ("O barro respira e a água fica fresca sem geladeira.",
         "The clay breathes and the water stays cool without a fridge."),
    ),
    _product(
        "caderno-pautado", 4_290, ("Caderno pautado", "Ruled notebook"),
        ("Cento e sessenta folhas costuradas que abrem por inteiro.",
         "A hundred and sixty sewn sheets that open flat."),
    ),
    _product(
        "fone-sem-fio", 59_900, ("Fone sem fio", "Wireless headphones"),
        ("Trinta horas de bateria e silêncio quando você quiser.",
         "Thirty hours of battery, and silence when you want it."),
    ),
    _product(
        "mochila-urbana", 28_990, ("Mochila urbana", "City backpack"),
        ("Lona encerada, vinte litros, bolso para o que importa.",
         "Waxed canvas, twenty litres, a pocket for what matters."),
    ),
    _product(
        "tenis-de-lona", 21_990, ("Tênis de lona", "Canvas shoes"),
        ("Cano alto, sola de borracha, melhor depois da primeira semana.",
         "High tops, rubber soles, better after the first week."),
    ),
    _product(
        "planta-jiboia", 6_500, ("Planta jiboia", "Pothos plant"),
        ("Cresce com pouca luz e perdoa quem esquece de regar.",
         "Grows in little light and forgives a missed watering."),
    ),
    _product(
        "luminaria-de-mesa", 18_750, ("Luminária de mesa", "Desk lamp"),
        ("Luz quente, braço firme, do tamanho da sua leitura.",
         "Warm light, a steady arm, as large as your reading."),
    ),
    _product(
        "cesta-de-palha", 9_980, ("Cesta de palha", "Straw basket"),
        ("Trançada à mão no Maranhão; vai à feira e volta cheia.",
         "Plaited by hand in Maranhão; goes to market and comes back full."),
    ),
    _product(
        "bola-de-capotao", 15_990, ("Bola de capotão", "Leather football"),
        ("Couro costurado, do tempo em que gol se fazia no campinho.",
         "Stitched leather, from the days when goals were scored on dirt."),
    ),
)  # fmt: skip
