"""The shop's website, and customers who order there: `python -m pgqueue.demo.customers ORDERS SEED RATE PHOTO`.

It opens the shop with full shelves, then places orders at RATE a second. Each line that it writes is one JSON object:
first the stock of each product, then for each order its id and whether it was `placed`, as the customer was told.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from sqlalchemy.orm import Session

from pgqueue.demo.outside import REFUSED_CUSTOMER
from pgqueue.demo.shop import Base, CardDeclined, Product, engine, place_order, sign_up

NAMES = ("ada", "alan", "barbara", "dennis", "donald", "edsger", "frances", "grace", "katherine", "ken", "margaret")
CUSTOMERS = (*(f"{name}@example.com" for name in NAMES), REFUSED_CUSTOMER)
ZONES = ("Europe/Paris", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
PRODUCTS = {"mug": 1290, "poster": 1990, "puzzle": 2490, "calendar": 2190}
STOCK = 100_000
ROLLBACKS = 10
"""One order in so many rolls back."""


def main(orders: int, seed: int, rate: float, photo: str) -> None:
    say(stock=open_shop())
    choices = random.Random(seed)
    declined = set(choices.sample(range(orders), k=orders // ROLLBACKS or min(orders - 1, 1)))
    began = time.monotonic()
    for number in range(orders):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        customer, product = choices.choice(CUSTOMERS), choices.randint(1, len(PRODUCTS))
        quantity = choices.randint(1, 3)
        card = "declined" if number in declined else "good"
        try:
            say(order=place_order(customer, product, quantity, photo, card=card), placed=True)
        except CardDeclined as refusal:
            say(order=refusal.order_id, placed=False)


def open_shop() -> dict[int, int]:
    Base.metadata.create_all(engine)
    for number, customer in enumerate(CUSTOMERS):
        sign_up(customer, ZONES[number % len(ZONES)])
    with Session(engine) as session, session.begin():
        products = [Product(name=name, cents=cents, stock=STOCK) for name, cents in PRODUCTS.items()]
        session.add_all(products)
        session.flush()
        return {product.id: product.stock for product in products}


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
