"""The jobs of RQ's rows: its workers import them by name."""


def nothing(data):
    pass


def fail(data):
    raise ValueError("bad job")
