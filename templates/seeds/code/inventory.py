"""A small inventory; written for kdaug, in the public domain (CC0-1.0)."""

from collections import Counter


def merge(stock, delivery):
    """The stock after a delivery, both as counts by article."""
    total = Counter(stock)
    total.update(delivery)
    return dict(total)


def missing(stock, order):
    """What of an order is not in stock, by article."""
    return {name: count - stock.get(name, 0) for name, count in order.items() if count > stock.get(name, 0)}


def reorder(stock, least):
    for name, count in sorted(stock.items()):
        if count < least.get(name, 0):
            yield name, least[name] - count
