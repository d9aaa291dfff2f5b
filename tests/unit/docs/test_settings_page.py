from support.settings_page import PAGE, SERVICES, settings_page


def test_the_page_of_settings_is_the_codes() -> None:
    assert PAGE.read_text() == settings_page(), "write it anew: make docs"


def test_every_setting_is_documented() -> None:
    for settings in SERVICES.values():
        for name, field in settings.model_fields.items():
            assert field.description, f"{settings.__name__}.{name}"
