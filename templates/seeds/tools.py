"""Pure functions that the tool recipes call where you give no tools of your own."""


def add(a: int, b: int) -> int:
    """Adds two whole numbers.

    a: the first number
    b: the second number
    """
    return a + b


def convert_temperature(value: float, to_unit: str) -> float:
    """Converts a temperature: from Celsius to Fahrenheit where to_unit is "F", from Fahrenheit to Celsius otherwise.

    value: the temperature
    to_unit: "F" or "C"
    """
    return round(value * 9 / 5 + 32, 2) if to_unit.upper() == "F" else round((value - 32) * 5 / 9, 2)


def count_words(text: str) -> int:
    """Counts the words of a text.

    text: the text whose words are counted
    """
    return len(text.split())


def days_of_month(month: int, year: int = 2023) -> int:
    """Says how many days a month has.

    month: from 1 to 12
    year: matters for February alone
    """
    if not 1 <= month <= 12:
        raise ValueError(f"month {month} is not from 1 to 12")
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def loan_payment(principal: float, annual_rate: float, months: int) -> float:
    """Computes the monthly payment of a loan with equal payments.

    principal: the sum that is lent
    annual_rate: the yearly interest in percent
    months: the number of payments
    """
    rate = annual_rate / 1200
    return round(principal / months if rate == 0 else principal * rate / (1 - (1 + rate) ** -months), 2)


def reverse_text(text: str) -> str:
    """Writes a text backwards.

    text: the text to be reversed
    """
    return text[::-1]
