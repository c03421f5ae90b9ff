"""Planted defects: losses with one each, under the name of the problem that must be found, and on which batch."""

PLANTED = []


def plant(problem, batch, severity="error", **options):
    def register(fn):
        PLANTED.append((problem, fn, batch, severity, options))
        return fn

    return register
