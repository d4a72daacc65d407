"""Which languages the suites over several languages take.

The report says how many (28 for Belebele, 20 for INCLUDE and FLORES, all European) but not which.
The choice is ours: the official languages of the European Union as far as the dataset has them,
then those of its neighbours with most speakers.
"""

#: ISO 639-1 code → FLORES-200 name and the English name. Belebele lacks Irish.
EUROPEAN = {
    "bg": ("bul_Cyrl", "Bulgarian"),
    "hr": ("hrv_Latn", "Croatian"),
    "cs": ("ces_Latn", "Czech"),
    "da": ("dan_Latn", "Danish"),
    "nl": ("nld_Latn", "Dutch"),
    "en": ("eng_Latn", "English"),
    "et": ("est_Latn", "Estonian"),
    "fi": ("fin_Latn", "Finnish"),
    "fr": ("fra_Latn", "French"),
    "de": ("deu_Latn", "German"),
    "el": ("ell_Grek", "Greek"),
    "hu": ("hun_Latn", "Hungarian"),
    "it": ("ita_Latn", "Italian"),
    "lv": ("lvs_Latn", "Latvian"),
    "lt": ("lit_Latn", "Lithuanian"),
    "mt": ("mlt_Latn", "Maltese"),
    "pl": ("pol_Latn", "Polish"),
    "pt": ("por_Latn", "Portuguese"),
    "ro": ("ron_Latn", "Romanian"),
    "sk": ("slk_Latn", "Slovak"),
    "sl": ("slv_Latn", "Slovenian"),
    "es": ("spa_Latn", "Spanish"),
    "sv": ("swe_Latn", "Swedish"),
    "sq": ("als_Latn", "Albanian"),
    "mk": ("mkd_Cyrl", "Macedonian"),
    "no": ("nob_Latn", "Norwegian"),
    "sr": ("srp_Cyrl", "Serbian"),
    "uk": ("ukr_Cyrl", "Ukrainian"),
}

#: The languages of FLORES, beside Polish: those of `EUROPEAN` with most speakers.
TRANSLATED = (
    *("bg", "hr", "cs", "da", "nl", "en", "fi", "fr", "de", "el"),
    *("hu", "it", "lt", "no", "pt", "ro", "sr", "es", "sv", "uk"),
)

#: INCLUDE's European languages by its own names; Basque would be the next.
INCLUDE = {
    "sq": "Albanian",
    "be": "Belarusian",
    "bg": "Bulgarian",
    "hr": "Croatian",
    "nl": "Dutch",
    "et": "Estonian",
    "fi": "Finnish",
    "fr": "French",
    "de": "German",
    "el": "Greek",
    "hu": "Hungarian",
    "it": "Italian",
    "lt": "Lithuanian",
    "mk": "North Macedonian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sr": "Serbian",
    "es": "Spanish",
    "uk": "Ukrainian",
}
