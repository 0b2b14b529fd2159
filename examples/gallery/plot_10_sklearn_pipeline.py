"""
Oversample in a scikit-learn pipeline
=====================================

`DiversifyOverSampler` follows imbalanced-learn's conventions, so it takes the place of `SMOTE` in a pipeline and in a grid
search.
"""

import matplotlib.pyplot as plt
import numpy as np
from imblearn.pipeline import make_pipeline
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler

import diversify as dv

pixels, digits = load_digits(return_X_y=True)
kept = np.concatenate([np.flatnonzero(digits == digit)[: 100 if digit < 5 else 15] for digit in range(10)])
pixels, digits = pixels[kept], digits[kept]

# %%
# The oversampler acts while the pipeline is fitted, never while it predicts: test folds hold real rows only.

folds = StratifiedKFold(5, shuffle=True, random_state=0)
for method in ("none", "random", "smote", "borderline_smote", "eos", "covariance"):
    steps = [StandardScaler()]
    if method != "none":
        steps.append(dv.DiversifyOverSampler(method=method, random_state=0))
    model = make_pipeline(*steps, RidgeClassifier(alpha=10))
    score = cross_val_score(model, pixels, digits, cv=folds, scoring="balanced_accuracy")
    print(f"{method:17} balanced accuracy {score.mean():.1%} (standard deviation over folds {score.std():.1%})")

# %%
# The methods are close here, and closer than the folds differ: on data like this, do not expect more than that.
#
# What "eos" makes: new rows between a row and its nearest neighbours of another class (its enemies). `parents_` tells which
# two rows each new row comes from.

pair = np.isin(digits, (3, 8))
plane = PCA(2).fit_transform(pixels[pair])
labels = digits[pair]
figure, cells = plt.subplots(1, 2, sharex=True, sharey=True)
for cell, method in zip(cells, ("smote", "eos"), strict=True):
    sampler = dv.DiversifyOverSampler(method=method, random_state=0)
    rows, made = sampler.fit_resample(plane, labels)
    new = rows[len(plane) :]
    cell.scatter(*plane[labels == 3].T, s=8, color="#8a939d", label="3")
    cell.scatter(*new.T, s=8, color="#e69f00", label="new 8")
    cell.scatter(*plane[labels == 8].T, s=18, color="#0072b2", label="8")
    cell.set(title=method, xticks=[], yticks=[])
cells[0].legend()
plt.show()
print("the first new row comes from the rows", sampler.parents_[0].tolist())
