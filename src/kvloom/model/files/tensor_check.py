"""Checks that the tensors of a model are those that its family needs."""

from __future__ import annotations

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.family import Family
from kvloom.model.files.kinds import kind_of
from kvloom.model.files.manifest import MANIFEST_FILE, Manifest, TensorEntry
from kvloom.model.registry import FAMILIES
from kvloom.model.shapes import checked, layer_shape, top_shape
from kvloom.model.spec import ModelSpec


def check_tensors(origin: str, family: Family, spec: ModelSpec, table: dict[str, TensorEntry]) -> None:
    """Check that every tensor the family needs is there, none is unknown, and shapes and sizes are right.

    Raises ModelFileError and UnsupportedModel.
    """
    shapes = {name: top_shape(spec, name) for name in ("embed", "norm")}
    shapes |= {
        f"layers.{i}.{name}": layer_shape(spec, name) for i in range(spec.num_layers) for name in family.required
    }
    missing = sorted(shapes.keys() - table.keys())
    if missing:
        some = ", ".join(missing[:3])
        raise ModelFileError(
            f"`{origin}` is missing {len(missing)} tensors of family {family.name}: {some}{' ...' * (len(missing) > 3)}"
        )
    shapes["head"] = top_shape(spec, "head")
    shapes |= {
        f"layers.{i}.{name}": layer_shape(spec, name) for i in range(spec.num_layers) for name in family.optional
    }
    for name, entry in table.items():
        if name not in shapes:
            raise UnsupportedModel(f"`{origin}` has tensor `{name}`, which family {family.name} does not use")
        if entry.shape != shapes[name]:
            raise ModelFileError(
                f"`{origin}`: tensor `{name}` has shape {entry.shape}, its settings ask for {shapes[name]}"
            )
        if entry.nbytes != kind_of(entry.kind, name, origin).tensor_bytes(entry.shape):
            raise ModelFileError(
                f"`{origin}`: tensor `{name}`, {entry.kind} of shape {entry.shape}, cannot take {entry.nbytes} bytes"
            )


def check_manifest(manifest: Manifest) -> None:
    """Check that a manifest, which may be damaged, is consistent: packing would otherwise read out of bounds.

    Raises ModelFileError and UnsupportedModel.
    """
    origin = str(manifest.directory / MANIFEST_FILE)
    spec, family = manifest.spec, FAMILIES.get(manifest.family)
    if family is None:
        raise UnsupportedModel(f"`{origin}` names family `{manifest.family}`, which kvloom does not support")
    sizes = [spec.width, spec.heads, spec.kv_heads, spec.head_dim, spec.ffn_width, spec.vocab_size, spec.context_length]
    sizes += [window for window in spec.windows if window is not None]
    if min(sizes) < 1 or spec.num_layers != len(spec.windows) or min(spec.norm_eps, spec.attn_scale) <= 0:
        raise ModelFileError(f"`{origin}` has impossible settings: {str(spec)[:400]}")
    check_tensors(origin, family, checked(spec, origin), manifest.tensors)
    for name, entry in manifest.tensors.items():
        files = manifest.files[entry.file : entry.file + 1] if entry.file >= 0 else ()
        if not files or not 0 <= entry.offset <= files[0].nbytes - entry.nbytes:
            raise ModelFileError(f"`{origin}`: tensor `{name}` lies outside the weights: {entry}")
