"""Training image diffusion: it fits, follows intensity where the AU is, starts from other people's networks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mesynth.core import facs
from mesynth.core.errors import ConfigError, LeakError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators.au_icgan.network import AUICGenerator
from mesynth.generators.base import load_pipeline
from mesynth.generators.diffusion_config import Process
from mesynth.generators.image_diffusion.config import (
    Config,
    ImageProcess,
    ImageSampling,
    LossConfig,
    ModelConfig,
    OptimConfig,
)
from mesynth.generators.image_diffusion.network import Former, ImageDiffusion
from mesynth.generators.image_diffusion.task import ImageDiffusionTask, windows
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.generators.registry import PriorGenerator
from mesynth.store.generator_folder import read_facts, save_pipeline
from mesynth.store.stage import Interrupted
from mesynth.training.config import load_recipe
from mesynth.training.data.batches import Batch
from mesynth.training.forecast import forecast
from mesynth.training.loop import build_task
from mesynth.training.train import Machine, train
from tests.generators.gan_facts import damage, wide_face
from tests.generators.gan_facts import facts as plain_facts
from tests.generators.tiny_foreign import save_unet, save_vae
from tests.training.gan_checks import CODES, by_intensity, facts, losses, measured, rows
from tests.training.rendered import PlainUpdater, joined, person_face, person_pairs, rendered_batch, take

SIZE = 16
MODEL = ModelConfig(width=32, multipliers=(1, 2), heads=2, dim=32, identity_tokens=2, identity_width=8)
FAST = OptimConfig(lr=3e-3)


def task(size: int = SIZE, **options: object) -> ImageDiffusionTask:
    torch.manual_seed(0)
    return ImageDiffusionTask(
        Config(**{"model": MODEL, "optim": FAST, "sampling": ImageSampling(steps=6), **options}), size
    )  # type: ignore[arg-type]


def fit(made: ImageDiffusionTask, columns: dict[str, np.ndarray], steps: int, batch: int) -> list[float]:
    """Random rows with new noise every time, learning rates that fall to 0; the loss of every step."""
    rng, updater, log = np.random.default_rng(0), PlainUpdater(made.optimisers()), []
    for i in range(steps):
        drawn = take(columns, rng.integers(0, len(columns["aus"]), batch))
        for group in updater.optimisers["denoiser"].param_groups:
            group["lr"] = made._config.optim.lr * (1 - i / steps)
        log.append(
            float(made.step(replace(drawn, seeds=rng.integers(0, 2**31, batch)), i * batch, updater)["denoiser"])
        )
    made.networks["denoiser"].eval()
    return log


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    """Four pairs of two people, brows and mouth."""
    return joined(range(2), 2, SIZE, codes=CODES)


@pytest.fixture(scope="module")
def trained(columns: dict[str, np.ndarray]) -> tuple[ImageDiffusionTask, list[float]]:
    """400 steps on one batch, with new noise every time."""
    made = task()
    return made, fit(made, columns, 400, 12)


@pytest.mark.slow
def test_one_batch_is_learned_by_heart(
    trained: tuple[ImageDiffusionTask, list[float]], columns: dict[str, np.ndarray]
) -> None:
    """What is drawn from noise is then nearer to the frame than the onset is."""
    made, log = trained
    assert np.mean(log[-20:]) < 0.4 * np.mean(log[:20])
    figures = measured(made, take(columns, np.arange(4)))
    assert figures["rms"] < 0.75 * figures["rms_onset"]
    assert figures["error"] < figures["error_onset"]
    assert 0.7 < figures["gain"] < 1.3


@pytest.mark.slow
def test_change_grows_with_intensity(
    trained: tuple[ImageDiffusionTask, list[float]], columns: dict[str, np.ndarray]
) -> None:
    made, seen = trained[0], take(columns, np.arange(4))

    def change(aus: torch.Tensor) -> torch.Tensor:
        known = torch.ones_like(aus, dtype=torch.bool)
        return (made._paint(made.networks["denoiser"], seen, aus, known) - seen.onset).abs().mean(1)

    for code in CODES:
        sizes = by_intensity(made, seen, change, code, slice(0, SIZE))
        assert sizes[0] == 0
        assert (np.diff(sizes[:5]) > 0).all(), (code, sizes)


@pytest.mark.slow
def test_a_trained_generator_passes_its_own_check_and_is_saved(
    trained: tuple[ImageDiffusionTask, list[float]], columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    made, seen = trained[0], take(columns, np.arange(4))
    figures = measured(made, seen)
    assert made.check({}, figures) == ""
    assert figures["au_dependence"] > 0.2
    made.save(made.networks, tmp_path / "g", facts("image_diffusion", SIZE))
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, ImageDiffusion)
    assert (loaded.sampling.steps, loaded.process) == (6, ImageProcess())
    assert "# Image diffusion" in (tmp_path / "g" / "README.md").read_text()
    noise = [int(seed) for seed in seen.seeds]
    drawn = loaded.changes(seen.onset, seen.aus, seen.known, noise)
    rms = 255 * float((seen.onset + drawn - seen.frame).square().mean((1, 2, 3)).sqrt().mean())
    assert rms < 0.8 * figures["rms_onset"]
    sheet = made.sheet(made.networks, seen)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (4 * (8 * SIZE + 2) - 2, 7 * (8 * SIZE + 2) - 2, 3)


def test_known_failures_are_named() -> None:
    made, batch = task(), rendered_batch(range(1), 3, SIZE, codes=CODES)

    def said(network: object) -> str:
        with torch.no_grad():
            values = made.validate({"denoiser": network}, batch)  # type: ignore[dict-item]
        return made.check({}, {k: float(v.nanmean()) for k, v in values.items()})

    assert "does not depend on the AUs" in said(made.networks["denoiser"].eval())  # untrained it says 0 to everything
    still = Process().target  # a network that always knows: nothing changes

    def silent(x: torch.Tensor, level: torch.Tensor, *told: torch.Tensor) -> torch.Tensor:
        process = Process()
        low, high = np.log(process.sigma_min), np.log(process.sigma_max)
        sigma = torch.exp(level / 1000 * (high - low) + low)
        total = (sigma.square() + process.sigma_data**2).sqrt().view(-1, 1, 1, 1)
        return still(x * total, torch.zeros_like(x), sigma)

    silenced = said(silent)
    assert "equals the input" in silenced or "does not depend" in silenced
    assert made.check({"denoiser": float("nan")}, {}) == "denoiser is nan"
    assert "the output is noise" in made.check({}, {"change": 30.0, "real_change": 1.0})


def test_a_batch_in_parts_has_the_losses_of_the_whole() -> None:
    made, batch = task(), rendered_batch(range(2), 2, SIZE, codes=CODES)
    batch.known[1] = False
    whole = losses(made, batch)
    parts = [losses(made, rows(batch, slice(i, i + 1))) for i in range(4)]
    assert np.mean([p["denoiser"] for p in parts]) == pytest.approx(whole["denoiser"], rel=1e-4)


def test_every_weight_learns() -> None:
    """Tokens, both nulls, the unknown AU, the identity encoder: within two steps (the last layer starts at 0)."""
    made = task()
    before = {n: p.detach().clone() for n, p in made.networks["denoiser"].named_parameters()}
    batch, updater = rendered_batch(range(4), 12, SIZE), PlainUpdater(made.optimisers())
    for step in range(3):
        made.step(batch, step, updater)
    # Decay alone must not count: every tensor has a gradient that is not 0.
    still = [n for n, p in made.networks["denoiser"].named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []
    assert all(not torch.equal(before[n], p) for n, p in made.networks["denoiser"].named_parameters())


@pytest.mark.parametrize("kind", ["edm", "v"])
@pytest.mark.parametrize("target", ["change", "picture"])
def test_processes_and_targets(kind: str, target: str) -> None:
    made = task(process=Process(kind=kind), model=replace(MODEL, target=target, gain=1.0))
    figures = measured(made, rendered_batch(range(1), 2, SIZE, codes=CODES))
    assert np.isfinite(figures["loss"])
    assert set(figures) >= {"error", "error_onset", "change", "real_change", "au_dependence", "gain"}


def saved_expectation(folder: Path, family: str = "motion_gan", seen: tuple[str, ...] = ("a/1",)) -> Path:
    """A generator that moves skin as the motion prior does, or paints nothing."""
    torch.manual_seed(1)
    network: Any = MotionGenerator(size=SIZE, width=8)
    if family == "au_icgan":
        network = AUICGenerator(size=SIZE, width=8, blocks=1)
    save_pipeline(folder, {"generator": network}, plain_facts(family) | {"subjects_seen": seen}, "", size=SIZE)
    return folder


@pytest.mark.parametrize("family", ["motion_gan", "au_icgan"])
def test_around_an_expectation_that_stays_as_it_is(family: str, columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    made = task(model=replace(MODEL, mean_model=saved_expectation(tmp_path / "gan", family)))
    before = {n: v.clone() for n, v in made.frozen["expected"].state_dict().items()}
    batch, updater = take(columns, np.arange(4)), PlainUpdater(made.optimisers())
    log = [float(made.step(batch, 4 * i, updater)["denoiser"]) for i in range(12)]
    assert log[-1] < log[0]
    assert all(torch.equal(v, before[n]) for n, v in made.frozen["expected"].state_dict().items())
    figures = measured(made, batch)
    assert (figures["error_expected"] < figures["error_onset"]) is (family == "motion_gan")
    made.save(made.networks, tmp_path / "g", facts("image_diffusion", SIZE))
    (tmp_path / "gan").rename(tmp_path / "gone")
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, ImageDiffusion)
    assert loaded.facts.networks == ("denoiser", "expected")
    for name, network in made.frozen.items():
        kept = getattr(loaded, {"expected": "mean_model"}[name]).state_dict()
        assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())
    clip, _ = loaded.generate(wide_face(), facs.parse_request("12=0.5"), Profile(), n_frames=3, fps=50)
    assert (clip.clip.frames[1] != clip.clip.frames[0]).any()


def test_an_expectation_that_saw_a_held_out_subject_is_refused(tmp_path: Path) -> None:
    saved_expectation(tmp_path / "gan", seen=("a/1", "a/2"))
    (tmp_path / "r.yaml").write_text(
        f"task: image_diffusion\nmodel: {{expect: {tmp_path / 'gan'}}}\n"
        f"data: {{kind: manifest, size: {SIZE}, manifests: [{tmp_path / 'clips'}]}}\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    with pytest.raises(LeakError, match=r"model\.mean_model has learned from a/2, who must not be seen"):
        train(recipe, tmp_path / "run", exclude_subjects=["a/2"], machine=Machine(device="cpu"))
    assert not (tmp_path / "run").exists()


def test_bad_expectations(tmp_path: Path) -> None:
    def refused(says: str, size: int = SIZE, **options: Any) -> None:
        with pytest.raises(ConfigError, match=says) as error:
            task(size, model=replace(MODEL, **options))
        assert "\n" not in str(error.value)

    good = saved_expectation(tmp_path / "gan")
    refused("model.mean_model: .* is no saved generator", mean_model=tmp_path / "nothing")
    refused(f"works on {SIZE} pixels, data.size is 32; make them equal", 32, mean_model=good)
    refused("the recipe means abcd", mean_model=good, mean_model_sha256="abcd")
    refused("model.target is picture", mean_model=good, target="picture")
    refused("subjects_seen is empty", mean_model=saved_expectation(tmp_path / "nobody", seen=()))
    torch.manual_seed(0)
    save_pipeline(
        tmp_path / "f", {"generator": MotionGenerator(size=SIZE, width=8)}, plain_facts("flow_gan"), "", size=SIZE
    )
    refused("holds a flow_gan; give a motion_gan or au_icgan", mean_model=tmp_path / "f")
    damage(tmp_path / "gan")
    refused("model.mean_model: ", mean_model=good)


def latent_model(folder: Path, *, base: bool) -> ModelConfig:
    save_vae(folder / "vae")
    if base:
        save_unet(folder / "base" / "unet")
    chosen = {"base": folder / "base", "base_licence": "OpenRAIL-M"} if base else {}
    return replace(MODEL, vae=folder / "vae", vae_licence="MIT", gain=2.0, **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [False, True])
def test_latent_training_saves_a_generator_that_stands_alone(base: bool, tmp_path: Path) -> None:
    made = task(32, model=latent_model(tmp_path, base=base))
    batch = rendered_batch(range(1), 4, 32, codes=CODES)
    updater = PlainUpdater(made.optimisers())
    before = {n: v.clone() for n, v in made.frozen["vae"].state_dict().items()}
    log = [float(made.step(batch, 4 * i, updater)["denoiser"]) for i in range(12)]
    assert log[-1] < log[0]
    assert all(torch.equal(v, before[n]) for n, v in made.frozen["vae"].state_dict().items())
    made.save(made.networks, tmp_path / "g", facts("image_diffusion", made.size))
    (tmp_path / "vae").rename(tmp_path / "gone")
    known = read_facts(tmp_path / "g")
    assert known.networks == ("denoiser", "vae")
    model = made._config.model
    assert f"autoencoder (sha256 {model.vae_sha256}): MIT" in known.licences
    assert any("OpenRAIL-M" in text for text in known.licences) == base
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, ImageDiffusion)
    assert loaded.network.config["origin"]["vae_sha256"] == model.vae_sha256
    clip, _ = loaded.generate(wide_face(), facs.parse_request("12=0.5"), Profile(), n_frames=3, fps=50)
    assert (clip.clip.frames[1] != clip.clip.frames[0]).any()
    figures = measured(made, batch)
    assert np.isfinite(figures["error"])


def test_a_base_model_is_where_training_starts(tmp_path: Path) -> None:
    """Widened with zeros, the network says at first what the base model says, whoever the onset is."""
    model = latent_model(tmp_path, base=True)
    base = save_unet(tmp_path / "base" / "unet")
    network = task(32, model=model).networks["denoiser"].eval()
    assert network.body.config["cross_attention_dim"] == 24  # type: ignore[index,union-attr]
    x, onset = torch.randn(2, 2, 4, 8, 8)
    aus, level, no = (
        torch.rand(2, len(facs.AU_CODES), 2),
        torch.tensor([300.0, 700.0]),
        torch.zeros(2, dtype=torch.bool),
    )
    with torch.no_grad():
        tokens = torch.cat([network.tokens(aus, aus > -1, no).tokens, network.identity(onset)], 1)  # type: ignore[operator]
        ours = network(x, level, onset, aus, aus > -1, no, no)
        torch.testing.assert_close(ours, base(x, level, tokens).sample)


def test_other_peoples_folders_are_checked(tmp_path: Path) -> None:
    model = latent_model(tmp_path, base=True)
    given = {"vae": model.vae, "vae_licence": "MIT"}

    def refused(says: str, size: int = 32, **options: object) -> None:
        with pytest.raises(ConfigError, match=says) as error:
            task(size, model=replace(MODEL, **options))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)

    refused("model.vae is given without model.vae_licence", vae=model.vae)
    refused("holds no config.json", vae=tmp_path / "x", vae_licence="MIT")
    refused("holds a AutoencoderKL; give a folder of a diffusers UNet2D", base=tmp_path / "vae", base_licence="MIT")
    refused("the recipe means abcd", **given, vae_sha256="abcd")
    refused("data.size=34 must be a multiple of 4", 34, **given)
    refused("codes of 2 x 2 cannot be halved", 8, **given)
    refused("maps 4 channels to 4, codes here have 12", base=model.base, base_licence="MIT")
    save_unet(tmp_path / "sdxl", addition_embed_type="text", addition_embed_type_num_heads=2)
    refused("has addition_embed_type=text", **given, base=tmp_path / "sdxl", base_licence="MIT")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ModelConfig(target="flow"), "model.target 'flow'"),
        (lambda: ModelConfig(gain=0), "model.gain=0"),
        (lambda: ModelConfig(patch=3), "model.patch=3"),
        (lambda: ModelConfig(width=20), "model.width=20"),
        (lambda: ModelConfig(multipliers=()), "model.multipliers"),
        (lambda: ModelConfig(identity_tokens=0), "model.identity_tokens=0"),
        (lambda: LossConfig(drop_aus=1), "loss.drop_aus=1"),
        (lambda: LossConfig(skew=0), "loss.skew=0"),
        (lambda: OptimConfig(lr=0), "optim.lr=0"),
        (lambda: OptimConfig(beta2=1), "optim.beta2=1"),
        (lambda: task(31), "data.size=31 must be a multiple of 2"),
        (lambda: task(18), "codes of 9 x 9 cannot be halved 1 times"),
    ],
)
def test_wrong_settings_are_one_line(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "size"), [("tiny", 32), ("64", 64), ("layers_tiny", 32), ("layers_128", 128), ("128", 128)]
)
def test_recipes_build(name: str, size: int) -> None:
    recipe = load_recipe(Path(f"configs/diffusion/image_{name}.yaml"), [])
    with torch.device("meta"):
        made = build_task(recipe)
    assert (made.name, recipe.data.size) == ("image_diffusion", size)


def test_the_latent_recipe_wants_an_autoencoder(tmp_path: Path) -> None:
    file = Path("configs/diffusion/image_latent.yaml")
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        load_recipe(file, [])
    save_vae(tmp_path / "vae")
    recipe = load_recipe(file, [f"model.vae={tmp_path / 'vae'}", "model.multipliers=[1,2]"])
    made = build_task(recipe)
    assert made.frozen["vae"].config["latent_channels"] == 4  # type: ignore[index,union-attr]
    (tmp_path / "again.yaml").write_text(recipe.yaml())
    assert load_recipe(tmp_path / "again.yaml", []).plain() == recipe.plain()


@pytest.mark.parametrize(
    "override", ["model.vae_licence=MIT", "model.base_sha256=ab", "model.mean_model_sha256=ab", "spread.sigma_min=.1"]
)
def test_a_key_without_effect_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"has no effect: model.* is not given"):
        load_recipe(Path("configs/diffusion/image_tiny.yaml"), [override])


# ---------------------------------------------------------------- around frames in layers

LAYERED_SIZE = 32
LAYERED = replace(MODEL, width=16, patch=2, mean_model=Path("motion-prior"))


def layered_task(**options: object) -> ImageDiffusionTask:
    return task(
        LAYERED_SIZE,
        **{
            "model": LAYERED, "process": ImageProcess(kind="mean"), "loss": LossConfig(squared=0, picture=1),
            "sampling": ImageSampling(solver="few", steps=1), "optim": FAST, **options,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def formed_batch() -> Batch:
    """Pairs of two people with what generation forms of them."""
    form, batch = Former("motion-prior", None, None), rendered_batch(range(2), 3, LAYERED_SIZE, codes=CODES)
    points = np.stack([person_pairs(person, 3, LAYERED_SIZE, codes=CODES)[1] for person in range(2)])
    formed, share = [], []
    for i in range(len(batch)):
        onset = (255 * batch.onset[i]).round().byte().permute(1, 2, 0).numpy()
        frames, own = form(onset, points[i // 3], batch.aus[i : i + 1].numpy())
        formed.append(frames[0])
        share.append(own)
    pictures = torch.from_numpy(np.stack(formed)).permute(0, 3, 1, 2).float() / 255
    return replace(batch, formed=pictures, share=torch.from_numpy(np.stack(share))[:, None])


@pytest.mark.parametrize("name", ["motion-prior", "landmark-mean"])
def test_training_is_shown_what_generation_forms(name: str) -> None:
    face = person_face(1, LAYERED_SIZE)
    asked = np.stack([facs.parse_request(text).intensity for text in ("12=0.7,25=0.5", "L45=1", "4=0")])
    frames, share = Former(name, None, None)(face.image, face.landmarks, asked)
    for frame, aus in zip(frames, asked, strict=True):
        clip, _ = PriorGenerator(name).generate(face, AUVector(aus), Profile(apex=0.5), n_frames=3, fps=100)
        assert np.array_equal(frame, clip.clip.frames[1])
    assert np.array_equal(frames[2], face.image)
    assert np.array_equal(share == 0, face.layers.still)
    assert share.max() == 1


def test_a_layered_task_learns_what_layers_leave(formed_batch: Batch, tmp_path: Path) -> None:
    """Of one batch, by heart: the error falls below that of layers, and outside the share nothing is drawn."""
    made = layered_task()
    before = measured(made, formed_batch)
    assert before["error"] == pytest.approx(before["error_expected"])
    updater = PlainUpdater(made.optimisers())
    for i in range(120):
        made.step(formed_batch, i, updater)
    after = measured(made, formed_batch)
    assert after["error_expected"] == before["error_expected"]
    assert after["error"] < 0.9 * before["error"]
    assert after["change"] > 0.1 * after["real_change"]
    picture = made._paint(made.networks["denoiser"], formed_batch, formed_batch.aus, formed_batch.known)
    assert formed_batch.share is not None
    outside = (formed_batch.share == 0).expand_as(picture)
    assert torch.equal(picture[outside], formed_batch.formed[outside])  # type: ignore[index]
    sheet = made.sheet(made.networks, formed_batch)
    assert sheet.shape == (6 * (4 * LAYERED_SIZE + 2) - 2, 7 * (4 * LAYERED_SIZE + 2) - 2, 3)
    made.save(made.networks, tmp_path / "g", facts("image_diffusion", LAYERED_SIZE))
    loaded = load_pipeline(tmp_path / "g")
    assert isinstance(loaded, ImageDiffusion)
    assert loaded.facts.networks == ("denoiser",)
    assert "Nothing is drawn at intensity 0" in (tmp_path / "g" / "README.md").read_text()
    face = person_face(0, LAYERED_SIZE)
    (again,) = loaded.pictures([face], [AUVector(formed_batch.aus[0].numpy())], [0])
    drawn = np.clip(255 * picture[0].detach().permute(1, 2, 0).numpy(), 0, 255)
    # The face in its own crop: what training drew is what generation draws, up to the crop's resampling.
    assert np.abs(again - drawn).mean() < 1


@pytest.mark.parametrize(
    "options",
    [
        {}, {"loss": LossConfig(squared=1)}, {"process": ImageProcess(kind="edm"), "loss": LossConfig(picture=0.5)},
    ],
    ids=["picture", "squared", "edm"],
)  # fmt: skip
def test_layered_losses_have_gradients_and_no_neighbours(options: dict[str, object], formed_batch: Batch) -> None:
    made = layered_task(**options)
    torch.nn.init.normal_(made.networks["denoiser"].body.conv_out.weight, std=0.05)  # type: ignore[union-attr]
    loss = made._loss(made.networks["denoiser"], formed_batch)
    assert loss.shape == (6,)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    assert made.networks["denoiser"].body.conv_in.weight.grad.abs().max() > 0  # type: ignore[union-attr]
    alone = [made._loss(made.networks["denoiser"], formed_batch.rows(np.array([i]))) for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), loss, rtol=1e-3, atol=1e-5)


def test_the_perceptual_loss_falls_and_has_no_neighbours(formed_batch: Batch) -> None:
    made = task(64, model=LAYERED, process=ImageProcess(kind="mean"), loss=LossConfig(squared=0, st_lpips=50))
    large = {name: F.interpolate(getattr(formed_batch, name), scale_factor=2) for name in ("onset", "frame", "formed")}
    batch = replace(formed_batch, **large, share=F.interpolate(formed_batch.share, scale_factor=2)).rows(np.arange(3))
    loss = made._loss(made.networks["denoiser"], batch)
    alone = [made._loss(made.networks["denoiser"], batch.rows(np.array([i]))) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), loss, rtol=1e-3, atol=1e-5)
    updater = PlainUpdater(made.optimisers())
    log = [float(made.step(batch, i, updater)["denoiser"]) for i in range(12)]
    assert log[-1] < 0.98 * log[0]
    figures = measured(made, batch)
    assert figures["st_lpips"] < figures["st_lpips_expected"]


def test_windows_lie_inside() -> None:
    pictures = torch.arange(64.0).view(1, 1, 8, 8).expand(2, 3, 8, 8)
    made = windows(pictures, torch.tensor([[0.0, 0.0], [0.9999, 0.9999]]))
    assert torch.equal(made[0], pictures[0, :, :4, :4])
    assert torch.equal(made[1], pictures[1, :, 4:, 4:])


def test_bad_layers(tmp_path: Path) -> None:
    def refused(says: str, **options: Any) -> None:
        with pytest.raises(ConfigError, match=says) as error:
            replace(MODEL, **options)
        assert "\n" not in str(error.value)

    refused("the recipe means landmark-m", mean_model=Path("motion-prior"), mean_model_sha256="landmark-mean")
    refused("model.target is picture", mean_model=Path("motion-prior"), target="picture")
    painter = saved_expectation(tmp_path / "painter", "au_icgan")
    refused("is a au_icgan, which paints and forms no layers", mean_model=painter, layered=True)
    save_vae(tmp_path / "vae")
    refused(
        "model.vae draws in latents, model.layered in pixels", mean_model=Path("motion-prior"), vae=tmp_path / "vae",
        vae_licence="MIT",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"loss.st_lpips looks at .* and data.size=32 is less than 64"):
        layered_task(loss=LossConfig(st_lpips=1))
    with pytest.raises(ConfigError, match="are all 0; give one of them a weight"):
        LossConfig(squared=0)
    with pytest.raises(ConfigError, match=r"loss.st_lpips=-1 is outside"):
        LossConfig(st_lpips=-1)


def test_who_is_drawn_around_is_part_of_a_recipes_hash(tmp_path: Path) -> None:
    """By name, as nothing else tells generators without training apart; a motion_gan's layers from its smooth warp."""
    tiny = Path("configs/diffusion/image_layers_tiny.yaml")
    gan = f"model.mean_model={saved_expectation(tmp_path / 'gan')}"
    given = ([], ["model.mean_model=landmark-mean"], [gan, "data.size=16"], [gan, "data.size=16", "model.layered=true"])
    hashes = [load_recipe(tiny, words).hash() for words in given]
    assert len(set(hashes)) == 4
    identity = load_recipe(tiny, given[2]).identity()
    assert "layered" not in identity["model"]
    recipe = load_recipe(tiny, [])
    seen = forecast(recipe)
    assert seen.memory > seen.weights > 0
    (tmp_path / "again.yaml").write_text(recipe.yaml())
    assert load_recipe(tmp_path / "again.yaml", []).hash() == hashes[0]
    with pytest.raises(ConfigError, match=r"model.layered has no effect: model.mean_model is not given"):
        load_recipe(Path("configs/diffusion/image_tiny.yaml"), ["model.layered=true"])


def test_a_layered_run_that_is_stopped_ends_with_the_same_weights(tmp_path: Path) -> None:
    """From its recipe on; the frames in layers are formed once, and whom the run has seen are the pairs' people."""
    small = (
        "data.identities=2", "data.per_identity=2", "run.images=16", "run.batch=4", "run.validation=2",
        "run.checkpoint_images=8", "run.log_images=8", "run.validate_images=16",
    )  # fmt: skip
    recipe = load_recipe(Path("configs/diffusion/image_layers_tiny.yaml"), small)
    on, bars = Machine(device="cpu", cache=tmp_path / "cache"), set()

    def stop(name: str) -> Callable[[int, int], None]:
        bars.add(name)
        return lambda done, total: os.kill(os.getpid(), signal.SIGTERM) if (name, done) == ("train", 8) else None

    with pytest.raises(Interrupted, match="stopped after 12 of 16 images"):
        train(recipe, tmp_path / "cut", machine=on, progress=stop)
    assert {"form", "form validation"} <= bars
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").glob("formed-*/*.bin")}
    assert len(made) == 4
    train(recipe, tmp_path / "cut", machine=on)
    train(recipe, tmp_path / "whole", machine=on)
    assert made == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").glob("formed-*/*.bin")}
    facts_of = [read_facts(tmp_path / run / "generator") for run in ("cut", "whole")]
    assert facts_of[0].weights_sha256 == facts_of[1].weights_sha256
    assert facts_of[0].subjects_seen == ("rendered/person0000920000", "rendered/person0000920001")
    assert {"error", "error_expected", "change", "real_change"} <= set(facts_of[0].figures)


def test_cameras_are_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    recipe = load_recipe(
        Path("configs/diffusion/image_layers_tiny.yaml"),
        ["data.identities=1", "data.per_identity=1", "data.camera.probability=0.5"],
    )
    with pytest.raises(ConfigError, match=r"data.camera.probability=0.5: frames in layers .*set it to 0") as error:
        train(recipe, tmp_path / "run", machine=Machine(device="cpu", cache=tmp_path / "cache"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run").exists()
