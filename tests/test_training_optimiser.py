"""Muon for the matrices between layers, Adam for the rest, as one optimiser."""

import pytest
import small
import torch

from liveact_model.errors import InputError
from liveact_train.optimiser import optimiser_of

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")


def trained(name, steps, rate=1e-3):
    dit = small.dit().requires_grad_(True)
    before = {key: p.detach().clone() for key, p in dit.named_parameters()}
    optimiser = optimiser_of(name, dit, rate)
    for group in optimiser.param_groups:
        group["weight_decay"] = 0.0
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in dit.parameters():
            p.grad = torch.randn(p.shape, generator=g)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return dit, optimiser, {key: p.detach() - before[key] for key, p in dit.named_parameters()}


@needs_muon
def test_each_weight_has_one_optimiser_and_the_head_is_adams():
    dit, optimiser, _ = trained("muon", 1)
    listed = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in dit.parameters())
    kinds = {key: set(optimiser.state[p]) for key, p in dit.named_parameters()}
    muon = {key for key, kept in kinds.items() if kept == {"momentum_buffer"}}
    assert all(kept in ({"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}) for kept in kinds.values())
    assert not any(key.startswith("head.") for key in muon) and all(key.endswith("weight") for key in muon)
    assert {
        key for key, p in dit.named_parameters() if p.dim() == 2 and "Linear" in str(type(owner(dit, key)))
    } - muon == {"head.head.weight"}


def owner(dit, key):
    return dit.get_submodule(key.rpartition(".")[0])


@needs_muon
def test_a_step_of_muon_is_as_large_as_one_of_adam_and_uses_all_directions_alike():
    _, _, adam = trained("adam", 1)
    dit, _, muon = trained("muon", 1)
    key = next(key for key, p in dit.named_parameters() if key.endswith("q.weight"))
    size = {name: d[key].square().mean().sqrt().item() for name, d in (("adam", adam), ("muon", muon))}
    assert 0.1 < size["muon"] / size["adam"] < 0.4  # Adam's first step is its largest; later ones are 0.2 to 0.4 of it
    spread = torch.linalg.svdvals(muon[key])
    assert spread.max() / spread.min() < 2.5  # of a random matrix it would be far more


def test_unknown_optimisers_are_told(monkeypatch):
    with pytest.raises(InputError, match=r"^--optimiser: expected one of muon, adam, got 'sgd'$"):
        optimiser_of("sgd", small.dit(), 1e-3)
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(InputError, match=r"^--optimiser: expected torch 2\.9 or newer for muon, got "):
        optimiser_of("muon", small.dit(), 1e-3)
    assert isinstance(optimiser_of("adam", small.dit(), 1e-3), torch.optim.AdamW)
