"""Names that clients may give the model."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.config import ServerConfig
from kvloom.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class ServedNames:
    """The first is what an answer says to a request that names none."""

    names: tuple[str, ...]

    @staticmethod
    def of(config: ServerConfig, model_name: str) -> ServedNames:
        return ServedNames(config.served_names or (model_name,))

    def checked(self, asked: str | None) -> str:
        """The name to answer with. Raises ModelNotFound."""
        if asked is None:
            return self.names[0]
        if asked not in self.names:
            raise ModelNotFound(f"no model `{asked}` here, only {', '.join(f'`{name}`' for name in self.names)}")
        return asked
