"""What golden bytes are taken of: command lines by name, tiny enough for a few seconds each.

A case is its command lines with ``&&`` between them; no shell reads them. ``{out}`` is the case's own folder, all of
whose files count; ``{name}`` is the folder of an earlier case, which is run first where it was not asked for.
"""

from __future__ import annotations

CASES: dict[str, str] = {}

# ---- a database of three people, and two faces of others
CASES["database"] = "mesynth render --subjects 3 --clips 3 --size 128 --fps 40 --workers 1 --out {out}/db"
CASES["faces"] = "mesynth render --layout faces --subjects 2 --workers 1 --out {out}/faces"
CASES["real"] = "mesynth prepare casme2 --root {database}/db --size 64 --workers 1 --json --out {out}/real"
CASES["prepared"] = (
    "mesynth prepare casme2 --root {database}/db --size 64 --crop piecewise --stabilise ecc --apex flow "
    "--magnify lagrangian:2 --resample tim:10 --method farneback --global-motion affine "
    "--inputs difference,dynamic,active,landmarks,flows,eyes,mouth,patches --workers 1 --json --out {out}/all && "
    "mesynth prepare casme2 --root {database}/db --size 64 --stabilise phase --apex frequency "
    "--magnify eulerian:3 --resample linear:8 --method dis --global-motion similarity --no-frames --workers 1 --json "
    "--out {out}/some"
)

# ---- plans and corpora
CASES["plan-three_classes"] = (
    "mesynth plan configs/corpus/three_classes.yaml --faces {faces}/faces --set rows.count=12 --json --out {out}/plan"
)
CASES["plan-coded"] = (
    "mesynth plan configs/corpus/coded.yaml --faces {faces}/faces --aus-from {real}/real --set rows.count=12 "
    "--set aus.sources=[coded,expert,published,cooccurrence] --json --out {out}/plan"
)
CASES["plan-sweep"] = (
    "mesynth plan configs/corpus/sweep.yaml --faces {faces}/faces --set nuisance.head=[0] --set clip.size=64 "
    """--set 'aus.fixed=["12=C","4=B","1=B,2=B","L4=C,7=B","15=0.4","9=0.5"]' --set clip.fps=50 """
    "--set clip.duration=[0.1,0.1] --json --out {out}/plan"
)
CASES["corpus"] = (
    "mesynth generate --faces {faces}/faces --emotion negative,positive,surprise --count 6 --noise 1.5 "
    "--head-motion 1 --blink 0.3 --style 1 --fps 50 --duration 0.1:0.2 --size 64 --preview 1 --workers 1 --json "
    "--out {out}/corpus && "
    "mesynth prepare corpus --root {out}/corpus --landmarker stored --size 64 --no-frames --workers 1 --json "
    "--out {out}/matched"
)
CASES["until-accepted"] = (
    "mesynth generate --faces {faces}/faces --emotion negative,positive,surprise --count 3 --fps 50 "
    "--duration 0.1:0.2 --size 64 --preview 0 --until-accepted --attempts 2 "
    "--keep identity=0.1,control,artefact,duplicate --workers 1 --json --out {out}/corpus"
)
FLOWS = "mesynth generate --kind flow --emotion negative,positive,surprise --count 6 --workers 1 --json --out {out}/c"
CASES["flow-prior"] = FLOWS
CASES["flow-gan"] = FLOWS + " --model flow_gan"
for _name in ("motion-prior", "landmark-mean", "motion_gan", "motion_diffusion", "motion_diffusion_fast"):
    CASES[f"generate-{_name}"] = (
        f"mesynth generate --plan {{plan-sweep}}/plan --model {_name} --preview 0 --workers 1 --json --out {{out}}/c"
    )

# ---- exports, and back what can be read back
for _name in ("flow-folders", "casme2", "samm", "webdataset", "huggingface", "frames", "previews", "flow-npy", "meb"):
    CASES[f"export-{_name}"] = f"mesynth export {{corpus}}/corpus --to {_name} --json --out {{out}}/e"
CASES["back"] = " && ".join(
    f"mesynth prepare {{}} --root {{{{export-{_name}}}}}/e --workers 1 --json --out {{{{out}}}}/{_name}".format(_reader)
    for _name, _reader in {
        "frames": "export", "huggingface": "export", "webdataset": "export", "casme2": "casme2 --size 64",
        "samm": "samm --size 64",
    }.items()
)  # fmt: skip
CASES["back"] += (
    " && mesynth prepare flow_folders --root {export-flow-folders}/e/three_norm_u_v_os --part rendered --workers 1 "
    "--json --out {out}/flow-folders"
)

# ---- what is asked of a corpus
CASES["measure"] = "mesynth measure --real {real}/real --synthetic {corpus}/corpus --json --out {out}/measure"
CASES["fid"] = "mesynth fid {corpus}/corpus {real}/real --json"
CASES["filter"] = (
    "mesynth filter {corpus}/corpus --keep identity=0.11,control,artefact,duplicate --json --out {out}/kept"
)
CASES["augment"] = (
    "mesynth augment --manifest {real}/real --copies 1 --ratios 0.7,1 --keep 0.8 --workers 1 --json --out {out}/copies"
)
CASES["card"] = (
    "mesynth verify {corpus}/corpus --json && "
    "mesynth card {corpus}/corpus --quality {measure}/measure --json --out {out}/README.md"
)
CASES["compare"] = (
    "mesynth compare --models motion-prior,motion_gan --people 2 --size 64 --aus 12 --levels 0.5,1 --json "
    "--out {out}/compare"
)
CASES["calibrate"] = "mesynth calibrate motion_gan --people 2 --aus 12 --levels 0.5,1 --json --out {out}/model"

# ---- training: a few updates of each tiny recipe, and of one on prepared clips
UPDATES = (
    "run.images=16 run.validate_images=16 run.log_images=8 run.checkpoint_images=16 --device cpu --workers 1 --json "
    "--out {out}/run"
)
for _name in (
    "gan/au_icgan", "gan/flow_gan", "gan/ice_gan", "gan/motion", "diffusion/image", "diffusion/motion",
    "diffusion/volume",
):  # fmt: skip
    CASES[f"train-{_name.replace('/', '-')}"] = f"mesynth train configs/{_name}_tiny.yaml {UPDATES}"

# ---- recognition: each recipe at the size that its comment "small" gives, three folds of two steps
STEPS = "train.steps=2 train.batch=4"
SETTINGS = {
    "atnet": f"{STEPS} data.frame_size=64 data.frames=10 atnet.widths=[16,32,64,64] atnet.hidden=64",
    "au_gacn": f"{STEPS} data.frame_size=32 au_gacn.widths=[8,16,32] au_gacn.node=16",
    "capsule_graph": STEPS,
    "capsulenet": f"{STEPS} data.frame_size=64 capsulenet.trunk=small capsulenet.side=0",
    "dssn": f"{STEPS} dssn.side=64",
    "elrcn": f"{STEPS} data.frame_size=64 elrcn.widths=[16,32,64] elrcn.depths=[1,1,1] elrcn.dense=[128] "
    "elrcn.hidden=64 elrcn.head=32",
    "fusenet": f"{STEPS} data.frame_size=32 data.frames=10 fusenet.filters=8 fusenet.side=16 fusenet.dense=[64,32]",
    "graph_tcn": f"{STEPS} data.frame_size=32 graph_tcn.shape_width=8 graph_tcn.width=16",
    "htnet": f"{STEPS} htnet.dim=48 htnet.repeats=[2,2,2]",
    "ice_discriminator": f"{STEPS} data.frame_size=64 ice_discriminator.width=16",
    "lda": "",
    "mer_gcn": f"{STEPS} data.frame_size=32 mer_gcn.widths=[8,16,32] mer_gcn.node=16",
    "micro_attention": f"{STEPS} data.frame_size=64 micro_attention.widths=[16,32,64,64]",
    "microexpstcnn": f"{STEPS} data.frame_size=32 data.frames=10 microexpstcnn.filters=8 microexpstcnn.dense=32",
    "offapex": f"{STEPS} offapex.dense=128",
    "quick": STEPS,
    "region_attention": STEPS,
    "ststnet": STEPS,
    "svm": "",
}
for _name, _settings in SETTINGS.items():
    CASES[f"loso-{_name}"] = (
        f"recognizer loso --manifest {{real}}/real configs/recognizer/{_name}.yaml seeds=[0] {_settings} --json "
        "--out {out}/loso"
    )
MIXED = "--manifest {real}/real --synthetic {corpus}/matched"
CASES["mixed"] = (
    f"recognizer loso {MIXED} configs/recognizer/quick.yaml {STEPS} seeds=[0,1] mix.ratio=0.5 --also-oracle --json "
    "--out {out}/loso"
)
CASES["ablate"] = (
    f"recognizer ablate {MIXED} configs/ablation/quick.yaml {STEPS} ratios=[0,0.5] resamples=100 "
    "mix.pretrain_steps=2 --json --out {out}/ablation"
)
CASES["predict"] = (
    f"recognizer train --manifest {{real}}/real configs/recognizer/quick.yaml {STEPS} --json --out {{out}}/model && "
    "recognizer predict --model {out}/model --manifest {corpus}/matched --json --out {out}/predictions"
)
