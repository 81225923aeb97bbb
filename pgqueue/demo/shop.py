"""A shop that prints customers' photographs on things: its tables, its tasks, and how it takes an order.

This is an app as you would write it; nothing in it knows that it is part of a demo. Its workers and its scheduler are

    pgqueue worker pgqueue.demo.shop:app -q email:4,previews:2,webhooks:8,stock:2,reports:1
    pgqueue scheduler pgqueue.demo.shop:app
"""

from __future__ import annotations

import os
import smtplib
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import httpx
from PIL import Image, ImageOps
from sqlalchemy import ForeignKey, create_engine, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from pgqueue import Backoff, Context, FailJob, Limit, PgQueue, Unique, chain, group

MEDIA = Path(os.environ.get("SHOP_MEDIA", "media"))
SMTP = os.environ.get("SHOP_SMTP", "localhost:25")
PREVIEW_SIZE = (160, 160)
SOON = Backoff.exponential(0.2, cap=2, jitter=0.2)
PRINTER_TAKES = Limit(rate="3/s", burst=2, key="{customer}")

engine = create_engine(os.environ.get("DATABASE_URL", "postgresql:///shop"))
printer = httpx.AsyncClient(base_url=os.environ.get("SHOP_PRINTER", "http://localhost:8080"), timeout=10)
app = PgQueue(engine=engine, backoff=SOON, timeout=30)


class Base(DeclarativeBase): ...


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    cents: Mapped[int]
    stock: Mapped[int]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    photo: Mapped[str]
    quantity: Mapped[int]
    product_id: Mapped[int] = mapped_column(ForeignKey(Product.id))
    product: Mapped[Product] = relationship()
    ready_at: Mapped[datetime | None] = mapped_column(default=None)


class StockMovement(Base):
    __tablename__ = "stock_movements"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    product_id: Mapped[int]
    quantity: Mapped[int]
    booked_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


class CardDeclined(Exception):
    """The bank refuses to pay for the order."""

    def __init__(self, order_id: int) -> None:
        super().__init__(f"the card for order {order_id} was declined")
        self.order_id = order_id


def place_order(customer: str, product_id: int, quantity: int, photo: str, *, card: str) -> int:
    """Take an order and return its id. Raises CardDeclined: then neither the order nor any job of it exists."""
    with Session(engine) as session, session.begin():
        order = Order(customer=customer, product_id=product_id, quantity=quantity, photo=photo)
        session.add(order)
        session.flush()
        send_confirmation.using(session).enqueue(order.id, customer)
        notify_printer.using(session).enqueue(order.id, customer)
        prepared = group(make_preview.job(order.id, photo), book_stock.job(order.id))
        app.flows.enqueue(chain(prepared, mark_ready.job(order.id), name=f"order {order.id}"), using=session)
        count_orders.using(session).enqueue(datetime.now(UTC).date())
        charge(card, order)
        return order.id


def charge(card: str, order: Order) -> None:
    if card == "declined":
        raise CardDeclined(order.id)


@app.task(queue="email", serial_key="{to}")  # a customer's e-mails arrive in the order of the orders
def send_confirmation(order_id: int, to: str) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "shop@example.com", to
    message["Subject"] = f"Your order {order_id}"
    # A job may run twice. The same id lets the receiver recognise the second message.
    message["Message-ID"] = f"<order-{order_id}@shop.example.com>"
    message.set_content(f"Thank you! We are printing your photograph: order {order_id}.")
    host, _, port = SMTP.rpartition(":")
    with smtplib.SMTP(host, int(port), local_hostname="shop.example.com", timeout=10) as server:
        server.send_message(message)


@app.task(queue="previews", run_in="process", bind=True)
def make_preview(ctx: Context, order_id: int, photo: str) -> None:
    preview = MEDIA / "previews" / f"{order_id}.jpg"
    unfinished = preview.with_suffix(".part")
    with Image.open(MEDIA / photo) as image:
        ctx.progress(30, "opened")
        fitted = ImageOps.fit(image.convert("RGB"), PREVIEW_SIZE)
    ctx.progress(70, "scaled")
    fitted.save(unfinished, "JPEG")
    unfinished.replace(preview)
    ctx.progress(100, "saved")


@app.task(queue="webhooks", max_attempts=12, limit=PRINTER_TAKES)
async def notify_printer(order_id: int, customer: str) -> None:
    response = await printer.post(
        "/orders",
        json={"order": order_id, "customer": customer},
        headers={"Idempotency-Key": f"order-{order_id}"},
    )
    if response.status_code == httpx.codes.BAD_REQUEST:
        raise FailJob(f"the printer refuses order {order_id}: {response.text}")
    response.raise_for_status()


@app.task(queue="stock", bind=True, transactional=True)
def book_stock(ctx: Context, order_id: int) -> None:
    """The booking commits together with the completion of this job: it happens exactly once."""
    with Session(ctx.connection) as session, session.begin():
        order = session.get_one(Order, order_id)
        session.add(StockMovement(order_id=order.id, product_id=order.product_id, quantity=-order.quantity))
        taken = Product.stock - order.quantity
        session.execute(update(Product).where(Product.id == order.product_id).values(stock=taken))


@app.task(queue="stock", bind=True, transactional=True)
def mark_ready(ctx: Context, order_id: int) -> None:
    """Runs when the preview is there and the stock is booked, whichever worker did it."""
    with Session(ctx.connection) as session, session.begin():
        session.get_one(Order, order_id).ready_at = datetime.now(UTC)


def sign_up(customer: str, tz: str) -> None:
    """A statement of the customer's month, on its first morning where the customer is."""
    name = f"statement-{customer.partition('@')[0]}"
    app.schedules.upsert(name, "0 9 1 * *", send_statement.job(customer), tz=tz, catch_up="latest")


@app.task(queue="reports")
def send_statement(customer: str) -> int:
    with Session(engine) as session:
        return session.scalars(select(func.count(Order.id)).where(Order.customer == customer)).one()


@app.task(queue="reports", unique=Unique("orders:{day}", until=timedelta(days=2)))  # each order asks, one is made
def count_orders(day: date) -> int:
    with Session(engine) as session:
        return session.scalars(select(func.count(Order.id))).one()


@app.every(timedelta(seconds=3))
@app.task(queue="reports")
def report_sales() -> dict[str, int]:
    sales = select(func.count(Order.id), func.coalesce(func.sum(Order.quantity * Product.cents), 0)).join(Order.product)
    with Session(engine) as session:
        orders, cents = session.execute(sales).one().tuple()
    return {"orders": orders, "cents": int(cents)}
