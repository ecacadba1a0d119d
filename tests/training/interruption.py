"""Data that end a run in the middle."""

from __future__ import annotations


class Interruption(Exception):
    pass


class InterruptedData:
    """The data, whose training iterator fails instead of giving batch number `stop` of a run."""

    def __init__(self, data, stop):
        self._data, self._stop = data, stop

    def __getattr__(self, name):
        return getattr(self._data, name)

    def train(self, *args):
        iterator, stop = self._data.train(*args), self._stop

        class Failing(type(iterator)):
            def __next__(self):
                if self.get_state()["next_index"] >= stop:
                    raise Interruption
                return super().__next__()

        iterator.__class__ = Failing
        return iterator
