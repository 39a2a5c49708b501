"""Frozen dataclasses that JAX transformations take and return."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and a pytree of its fields, but those with ``metadata={"static": True}``.

    JAX rebuilds pytrees around placeholders that are no arrays, so rebuilding goes past the constructor, and with it
    past any check of shapes; that is what `jax.tree_util.register_dataclass` does not do.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = [field.name for field in fields if not field.metadata.get("static")]
    static = [field.name for field in fields if field.metadata.get("static")]

    def flatten(instance: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(instance, name) for name in data), tuple(getattr(instance, name) for name in static)

    def flatten_with_keys(instance: T) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        values, constants = flatten(instance)
        return tuple(zip(map(jax.tree_util.GetAttrKey, data), values, strict=True)), constants

    def unflatten(constants: tuple[Any, ...], values: Iterable[Any]) -> T:
        instance = object.__new__(cls)
        for name, value in zip(data + static, (*values, *constants), strict=True):
            object.__setattr__(instance, name, value)
        return instance

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
