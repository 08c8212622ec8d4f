import numpy as np
import torch

from mesynth.training import record


def test_a_sheet_holds_every_picture_in_its_place() -> None:
    red, grey = torch.zeros(2, 3, 8, 8), torch.full((2, 1, 8, 8), 0.5)
    red[:, 0] = 1
    page = record.sheet([record.pictures(red), record.pictures(grey)], scale=2)
    assert page.shape == (16 + record.GAP + 16, 16 + record.GAP + 16, 3)
    assert (page[3, 3] == (255, 0, 0)).all()
    assert (page[20, 20] == 128).all()
    assert (page[16] == 255).all()


def test_changes_are_seen_about_grey() -> None:
    before = torch.full((1, 3, 4, 4), 0.2)
    same, brighter = record.changes(before, before)[0], record.changes(before + 0.05, before)[0]
    assert (same == 128).all()
    assert np.allclose(brighter, 255 * 0.7, atol=1)


def test_flow_pictures_are_white_at_rest() -> None:
    flow = torch.zeros(1, 2, 8, 8)
    flow[0, 0, :4] = 1
    picture = record.flows(flow)[0]
    assert (picture[4:] == 255).all()
    assert not (picture[:4] == 255).all()
