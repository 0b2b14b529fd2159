import pytest
from imblearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.estimator_checks import parametrize_with_checks as sklearn_checks
from diversify.oversampling import *


@parametrize_with_checks([DiversifyOverSampler(method=method, random_state=0) for method in METHODS])
def test_imb(estimator, check):
    check(estimator)


@sklearn_checks([DiversifyOverSampler(method=method, random_state=0) for method in METHODS])
def test_sk(estimator, check):
    check(estimator)
