"""Draw the pictures of this folder again: python draw.py"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
INVOICE = [
    "INVOICE",
    "",
    "Invoice no.   2026-0417",
    "Date          2026-03-09",
    "Seller        Blue Harbour Paper Ltd",
    "Buyer         Corner Bookshop",
    "",
    "20 boxes of paper clips",
    "Amount with tax   56.50",
    "Tax rate   13 %         Tax   6.50",
]
MATHS = ["Solve for x:", "", "3x + 5 = 20"]
SALES = {"Jan": 12, "Feb": 18, "Mar": 15, "Apr": 27}


def shapes(circle: str, square: str) -> Image.Image:
    """A circle on the left, a square on the right."""
    image = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((80, 140, 260, 320), fill=circle)
    draw.rectangle((390, 150, 550, 310), fill=square)
    return image


def page(lines: list[str]) -> Image.Image:
    """Lines of text."""
    image = Image.new("RGB", (900, 60 + 60 * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((50, 30 + 60 * number), line, "black", ImageFont.load_default(36))
    return image


def chart() -> Image.Image:
    """Bars with their numbers."""
    image = Image.new("RGB", (800, 600), "white")
    draw = ImageDraw.Draw(image)
    draw.text((50, 20), "Sales in thousands", "black", ImageFont.load_default(36))
    for number, (month, value) in enumerate(SALES.items()):
        left, top = 90 + 170 * number, 520 - 14 * value
        draw.rectangle((left, top, left + 100, 520), fill="steelblue")
        draw.text((left + 28, top - 40), str(value), "black", ImageFont.load_default(30))
        draw.text((left + 20, 535), month, "black", ImageFont.load_default(30))
    draw.line((60, 520, 760, 520), fill="black", width=3)
    return image


def main() -> None:
    pictures = {
        "first.png": shapes("red", "blue"),
        "second.png": shapes("green", "blue"),
        "invoice.png": page(INVOICE),
        "maths.png": page(MATHS),
        "chart.png": chart(),
    }
    for name, image in pictures.items():
        image.quantize(16).save(HERE / name, optimize=True)


if __name__ == "__main__":
    main()
