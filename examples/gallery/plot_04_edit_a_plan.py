"""
Edit a plan
===========

A plan says per class how often it is drawn and how its images and features are augmented, with a reason for each choice.
It is JSON: read it, change it, compare it.
"""

import json

import matplotlib.pyplot as plt
import numpy as np

import diversify as dv

train, heldout, head = dv.make_embeddings((600, 300, 100, 40, 12), num_features=32, spread=0.8)
names = ["ant", "bee", "cat", "dog", "emu"]
diagnosis = dv.diagnose(train, heldout, head=head, class_names=names)
plan = dv.make_plan(diagnosis)

# %%
# The reasons name the rule, the measured value with its interval, and what it was compared with.

for reason in plan.classes[-1].reasons:
    print(f"{reason.rule}: {reason.text}\n")

# %%
# Edit the JSON, then read it back. Every field is checked: draws have to sum to 1, and strengths lie in [0, 1].

values = json.loads(plan.to_json())
draws = np.array([one["draws"] for one in values["classes"]])
draws[-1] *= 3  # draw the rarest class three times as often
for one, share in zip(values["classes"], draws / draws.sum(), strict=True):
    one["draws"] = float(share)
edited = dv.Plan.from_dict(values)
for line in plan.diff(edited):
    print(line)

# %%
# A wrong edit ends in one line that names the field.

try:
    dv.Plan.from_dict({**values, "largest_difference": 2})
except dv.InputError as error:
    print(error)

# %%
# The controls that a plan has to beat: one made from class sizes alone, and one made from the measures of other classes.

plans = {
    "diagnosis": plan,
    "edited": edited,
    "class sizes alone": dv.Plan.from_counts(names, diagnosis["count"].long()),
    "other classes' measures": dv.make_plan(diagnosis.permuted(seed=0)),
}
figure, axes = plt.subplots()
for place, (name, one) in enumerate(plans.items()):
    axes.bar(np.arange(5) + 0.2 * place - 0.3, one.draws, width=0.2, label=name)
axes.set(xticks=range(5), xticklabels=names, ylabel="share of the draws", yscale="log")
axes.legend()
plt.show()
