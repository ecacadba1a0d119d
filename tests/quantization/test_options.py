"""Every option of a method, an estimator and a granularity is reached from a config's text."""

import dataclasses

import pytest

from qtx.cli.flags import parse
from qtx.experiment import read
from qtx.foundation.errors import QtxError
from qtx.quantization import ESTIMATORS, QuantizationConfig
from qtx.quantization.estimators import Lp
from qtx.quantization.granularity import GRANULARITIES
from qtx.quantization.methods import METHODS, Gptq, Hadamard, InTurn, SmoothQuant
from tests.pipeline.test_records import NANO

SEARCH = {"p": 3.0, "search": "golden", "candidates": 50, "margin": 0.25}
# Registered name to a value of every option that is not its default.
OTHER = {
    **{
        "smoothquant": {"alpha": 0.7},
        "awq": {"steps": 7},
        "hadamard": {"seed": 3},
        "quarot": {"seed": 3},
        "gptq": {"damping": 0.02},
    },
    **{"running_minmax": {"momentum": 0.5, "percentile": 99.99}, "mse": {**SEARCH, "p": 2.0}, "lp": SEARCH},
    **{"group": {"num_groups": 6}, "input_group": {"size": 64}, "token_group": {"size": 64}},
}
MADE = {
    "method": lambda config: config.make_method(),
    "weight_estimator": lambda config: config.quantizers("w8a8")[0].estimator,
    "weight_granularity": lambda config: config.quantizers("w8a8")[0].granularity,
    "activation_estimator": lambda config: config.quantizers("w8a8")[1].estimator,
    "activation_granularity": lambda config: config.quantizers("w8a8")[1].granularity,
}
NAMES = {
    "method": METHODS,
    "weight_estimator": ESTIMATORS,
    "weight_granularity": ("tensor", "channel", "input_group"),
    "activation_estimator": ESTIMATORS,
    "activation_granularity": ("tensor", "group", "token", "token_group", "call"),
}
CASES = [
    (key, name, option) for key, names in NAMES.items() for name in names for option in (None, *OTHER.get(name, {}))
]


@pytest.mark.parametrize("registry", [METHODS, ESTIMATORS, GRANULARITIES])
def test_every_option_has_a_case(registry):
    for name, cls in registry.items():
        assert {field.name for field in dataclasses.fields(cls)} == OTHER.get(name, {}).keys(), name


@pytest.mark.parametrize("key, name, option", CASES)
def test_every_option_is_reached(key, name, option):
    registry = METHODS | ESTIMATORS | GRANULARITIES
    options = {} if option is None else {option: OTHER[name][option]}
    text = ",".join([name, *(f"{option}={value}" for option, value in options.items())])
    made = MADE[key](QuantizationConfig(**{key: text}))
    assert made == registry[name](**options) and type(made) is registry[name]
    assert options.items() <= dataclasses.asdict(made).items()


def test_the_command_line_carries_options():
    flags = [f"--config={NANO}", "--config.quantization.method=smoothquant,alpha=.6 + gptq,damping=1e+9"]
    config = read(parse([*flags, "--config.quantization.weight_estimator=lp,p=3"])[0]).quantization
    assert config.make_method() == InTurn((SmoothQuant(0.6), Gptq(1e9)))
    assert config.quantizers("w4a8")[0].estimator == Lp(p=3.0)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"method": "gptq,dampin=0.1"}, "unknown key in method 'gptq,dampin=0.1': 'dampin': did you mean 'damping'"),
        ({"method": "gtpq,damping=0.1"}, "unknown method 'gtpq': did you mean 'gptq'"),
        ({"method": "gptq,damping"}, "'damping' is not an option=value"),
        ({"method": "gptq,damping=0.1,damping=0.2"}, "gives damping twice"),
        ({"method": "gptq,damping={[]}"}, "damping is '{[]}': expected float"),
        ({"method": "gptq,damping=much"}, "damping is 'much': expected float"),
        ({"method": "gptq,bases=hadamar"}, "did you mean 'hadamard'"),
        ({"method": "gptq + smoothquant"}, "smoothquant has to come before gptq: write 'smoothquant + gptq'"),
        ({"method": "hadamard+smoothquant,alpha=0"}, "smoothquant has to come before hadamard"),
        ({"method": "smoothquant + per_token"}, "write 'per_token + smoothquant'"),
        ({"method": "gptq + hadamard + gptq"}, "hadamard has to come before gptq"),
        ({"method": "gptq + gptq,damping=0.1"}, "methods gptq and gptq do the same: leave one of them out"),
        ({"method": "static + gptq"}, "method static goes alone: leave it out of the list, or the others"),
        ({"method": "gptq + "}, "unknown method ''"),
        ({"method": "smoothquant,alpha=2"}, "alpha is 2.0: expected 0 to 1"),
        ({"weight_estimator": "mse,p=4"}, "choose lp,p=4"),
        ({"weight_estimator": "lp,p=1e999"}, "p is inf: expected a positive number"),
        ({"weight_estimator": "mse_golden"}, "unknown weight_estimator 'mse_golden'"),
        ({"weight_estimator": "auto,momentum=0.5"}, "unknown key in weight_estimator"),
        ({"activation_granularity": "tensor,num_groups=2"}, "unknown key in activation_granularity"),
        ({"weight_granularity": "input_group,size=0"}, "size is 0: expected at least 1, e.g. 128"),
        ({"activation_granularity": "input_group"}, "unknown activation_granularity 'input_group'"),
    ],
)
def test_bad_options_are_one_line(options, says):
    with pytest.raises(QtxError) as error:
        QuantizationConfig(**options)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "recorded, method",
    [
        ("gptq,bases=none,damping=0.5", Gptq(0.5)),
        ("gptq,damping=0.5,bases=smoothquant", InTurn((SmoothQuant(), Gptq(0.5)))),
        ("gptq,bases=hadamard", InTurn((Hadamard(), Gptq()))),
    ],
)
def test_what_gptq_was_told_of_bases_by_earlier_versions_is_read(recorded, method):
    assert QuantizationConfig(method=recorded).make_method() == method
