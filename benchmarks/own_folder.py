"""A study on your own image files. Fill in the names in capitals, then run

    diversify benchmark benchmarks/own_folder.py --out runs/own_folder.jsonl
    diversify report runs/own_folder.jsonl --out runs/own_folder

DIR holds one folder per class (`DIR/cat/1.jpg`), or `train` and `test` (and `val`, if you have one) with such folders in
each. Test images are required, because final runs are evaluated on them. A study that was stopped is resumed by the same
command. A study with another protocol needs another file of records.
"""

from diversify.study.protocol import Protocol
from diversify.study.suites import THE_EIGHT

DIR = "DIR"  # the folder; a relative path starts where the command is run
RESIZE = None  # shorter side in pixels, for example 256; needed if the files have several sizes
CROP = None  # side of the centre crop in pixels, for example 224; all images of a run have one size
MODEL = "torchvision:resnet18"  # trained from scratch; any value of `--model`, also package.module:function
EPOCHS = 60  # of a final run; enough for the validation accuracy to stop rising
TRIAL_EPOCHS = 30  # of a trial; None for as many
BATCH_SIZE = 64
TRIALS = 4  # per method; the first has the published parameters, so 1 means no search
SEEDS = (0, 1, 2)  # one final run each; intervals need 2 seeds, p values 3

PROTOCOL = Protocol(
    suite="own_folder",
    data=f"folder:{DIR}",
    resize=RESIZE,
    crop=CROP,
    imbalance="none",  # keep all images; exp:100 makes a balanced data set long-tailed
    holdout=0.2,  # share of the training images used for validation if there is no folder val
    model=MODEL,
    epochs=EPOCHS,
    trial_epochs=TRIAL_EPOCHS,
    batch_size=BATCH_SIZE,
    warmup_epochs=5,  # at most a third of a run's epochs
    precision="bf16",  # fp32 on a CPU without native bfloat16
    learning_rate=(0.01, 0.05, 0.2),  # lowest, first tried, highest
    weight_decay=(1e-4, 5e-4, 2e-3),
    methods=THE_EIGHT,  # any names in diversify.study.methods.METHODS, each with +images, +mix or +head behind it
    trials=TRIALS,
    seeds=SEEDS,
    rungs=(),  # for example (10, 20): epochs after which a trial that is behind is stopped
)
