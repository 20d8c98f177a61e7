"""Where are the keys and values of all rows that are decoded together? In two tensors: no step pads or copies them.

Not here: which row has which slot (transformers.py).
"""

from typing import Any

import torch
from transformers.cache_utils import Cache


class Slots(Cache):  # type: ignore[misc]  # transformers is untyped to mypy
    """The key-value cache of all rows: two tensors (layer, slot, head, position, dimension) that grow as needed.

    ``place`` sets where the next forward pass writes and reads. During the pass, transformers' attention calls
    ``update`` for each layer.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self._layers = layers
        self._slots = self._positions = 0
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def reserve(self, slots: int, positions: int) -> None:
        """Make space for at least ``slots`` slots of ``positions`` tokens each."""
        if slots <= self._slots and positions <= self._positions:
            return
        self._slots = max(slots, 2 * self._slots) if slots > self._slots else self._slots
        self._positions = positions * 5 // 4 + 64 if positions > self._positions else self._positions
        self._keys, self._values = self._grown(self._keys), self._grown(self._values)

    def place(self, first: int, positions: torch.Tensor, used: int) -> None:
        """Prepare a forward pass over the slots from ``first`` on. Token j of row i is at position ``positions[i, j]``.

        The pass sees the positions before ``used`` that its mask allows.
        """
        end = first + len(positions)
        self._where = torch.arange(first, end, device=positions.device)[:, None], slice(None), positions
        self._seen = slice(first, end), slice(None), slice(used)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._keys is None or self._values is None:
            self._keys, self._values = self._room(key_states), self._room(value_states)
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._where], values[self._where] = key_states.transpose(1, 2), value_states.transpose(1, 2)
        return keys[self._seen], values[self._seen]

    def read(self, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of the first ``length`` positions of a slot."""
        assert self._keys is not None and self._values is not None
        return self._keys[:, slot, :, :length].clone(), self._values[:, slot, :, :length].clone()

    def write(self, slot: int, length: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write the first ``length`` positions of keys and values that ``read`` returned into a slot."""
        if self._keys is None or self._values is None:
            self._keys, self._values = self._room(keys), self._room(values)
        self._keys[:, slot, :, :length], self._values[:, slot, :, :length] = keys[:, :, :length], values[:, :, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        if self._keys is not None and self._values is not None:  # else nothing was processed yet
            self._keys[:, target, :, :length] = self._keys[:, source, :, :length]
            self._values[:, target, :, :length] = self._values[:, source, :, :length]

    def clear(self) -> None:
        """Free the memory."""
        self._slots = self._positions = 0
        self._keys = self._values = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        """Allocate zeros: masked positions must hold finite numbers."""
        return like.new_zeros(self._layers, self._slots, like.shape[1], self._positions, like.shape[-1])

    def _grown(self, old: torch.Tensor | None) -> torch.Tensor | None:
        if old is None:
            return None
        new = old.new_zeros(self._layers, self._slots, old.shape[2], self._positions, old.shape[4])
        new[:, : old.shape[1], :, : old.shape[3]] = old
        return new
