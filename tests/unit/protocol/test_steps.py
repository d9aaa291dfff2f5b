from keypost.protocol.steps import NEGOTIATION_TITLES, RENEWAL_TITLES, negotiation_step, renewal_step


def test_there_are_fourteen_and_eight_steps() -> None:
    assert list(NEGOTIATION_TITLES) == list(range(1, 15))
    assert list(RENEWAL_TITLES) == list(range(1, 9))


def test_a_step_says_what_who_and_when() -> None:
    step = negotiation_step(5, "alice/x", 7, size=384)
    assert (step.list, step.step, step.actor, step.time, step.facts) == ("negotiation", 5, "alice/x", 7, {"size": 384})
    assert step.title == NEGOTIATION_TITLES[5]
    assert renewal_step(8, "alice/x", 7).title == RENEWAL_TITLES[8]
