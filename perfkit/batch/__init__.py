"""All notebooks of all scenarios of a store, several at a time; one that fails does not stop the rest."""

from perfkit.batch.crew import Made, make_all
from perfkit.batch.orders import Order, orders_of

__all__ = ["Made", "Order", "make_all", "orders_of"]
