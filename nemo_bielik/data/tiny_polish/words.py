"""The tables of adjectives, verbs and prepositions, one entry a line."""

# nominative masculine, nominative plural masculine-personal; the keys name groups of kinds
ADJECTIVES = {
    "person animal": """
        młody młodzi|wesoły weseli|smutny smutni|mądry mądrzy|cichy cisi|silny silni
        zdrowy zdrowi|głodny głodni|zmęczony zmęczeni|spokojny spokojni|leniwy leniwi
        odważny odważni|sprytny sprytni|szczęśliwy szczęśliwi|chudy chudzi|gruby grubi
        ostrożny ostrożni|dzielny dzielni|łagodny łagodni|chory chorzy|samotny samotni
    """,
    "person": """
        uprzejmy uprzejmi|bogaty bogaci|biedny biedni|wysoki wysocy|cierpliwy cierpliwi
        pracowity pracowici|uczciwy uczciwi|uparty uparci
    """,
    "person animal thing text document building garden open water": """
        stary starzy|mały mali|duży duzi|piękny piękni|dziwny dziwni|zwykły zwykli
    """,
    "thing text document building garden open": "nowy nowi|dobry dobrzy",
    "thing building": "drewniany drewniani|czysty czyści|brudny brudni|tani tani|drogi drodzy",
    "thing": """
        czerwony czerwoni|zielony zieloni|żółty żółci|ciężki ciężcy|lekki lekcy
        ciemny ciemni|jasny jaśni
    """,
    "animal thing": "czarny czarni|biały biali|szary szarzy|brązowy brązowi",
    "text document": """
        długi dłudzy|krótki krótcy|ciekawy ciekawi|zrozumiały zrozumiali|nudny nudni
    """,
    "document": """
        ważny ważni|pilny pilni|wspólny wspólni|dokładny dokładni|roczny roczni
        poprawny poprawni|podpisany podpisani|przyjęty przyjęci|złożony złożeni
        zatwierdzony zatwierdzeni|odrzucony odrzuceni|przygotowany przygotowani
        omówiony omówieni|opublikowany opublikowani|sprawdzony sprawdzeni
    """,
    "building garden open water": "daleki dalecy|bliski bliscy|znany znani",
    "garden open water": "szeroki szerocy|rozległy rozlegli",
    "building": "murowany murowani|opuszczony opuszczeni|przestronny przestronni",
}
PARTICIPLES = """
    podpisany przyjęty złożony zatwierdzony odrzucony przygotowany omówiony opublikowany
    sprawdzony
"""

ALL = "person animal thing text document building garden open water"
CONCRETE = "person animal thing building garden open"

# infinitive, first and third person singular, third plural | case | subjects | objects | tolerates
VERBS = f"""
    czytać czytam czyta czytają | acc | person | text document | dat ins
    pisać piszę pisze piszą | acc | person | text | dat ins
    widzieć widzę widzi widzą | acc | person animal | {CONCRETE} water
    lubić lubię lubi lubią | acc | person animal | {ALL}
    znać znam zna znają | acc | person | person building garden open text
    kochać kocham kocha kochają | acc | person | person animal
    szanować szanuję szanuje szanują | acc | person | person
    chwalić chwalę chwali chwalą | acc | person | person animal | ins
    odwiedzać odwiedzam odwiedza odwiedzają | acc | person | person building garden | ins
    obserwować obserwuję obserwuje obserwują | acc | person animal | {CONCRETE}
    podziwiać podziwiam podziwia podziwiają | acc | person | {CONCRETE} text
    oglądać oglądam ogląda oglądają | acc | person | thing building garden
    opisywać opisuję opisuje opisują | acc | person | {ALL} | dat ins
    kupować kupuję kupuje kupują | acc | person | thing animal text | dat gen ins
    sprzedawać sprzedaję sprzedaje sprzedają | acc | person | thing animal text | dat gen ins
    malować maluję maluje malują | acc | person | thing animal building open | dat ins
    rysować rysuję rysuje rysują | acc | person | thing animal building | dat ins
    budować buduję buduje budują | acc | person | building | dat ins
    naprawiać naprawiam naprawia naprawiają | acc | person | thing | dat ins
    nosić noszę nosi noszą | acc | person | thing text | dat ins
    karmić karmię karmi karmią | acc | person | animal | ins
    szukać szukam szuka szukają | gen | person animal | {CONCRETE} | dat ins
    pilnować pilnuję pilnuje pilnują | gen | person animal | thing animal building | dat acc
    słuchać słucham słucha słuchają | gen | person | person | acc
    potrzebować potrzebuję potrzebuje potrzebują | gen | person | thing text document | acc
    używać używam używa używają | gen | person | thing | acc dat
    unikać unikam unika unikają | gen | person animal | person animal open building
    dotykać dotykam dotyka dotykają | gen | person animal | thing animal | acc ins
    bronić bronię broni bronią | gen | person | person building | acc ins
    bać_się boję boi boją | gen | person animal | person animal
    pomagać pomagam pomaga pomagają | dat | person | person animal | ins
    ufać ufam ufa ufają | dat | person | person animal
    wierzyć wierzę wierzy wierzą | dat | person | person
    dziękować dziękuję dziękuje dziękują | dat | person | person | ins
    przyglądać_się przyglądam przygląda przyglądają | dat | person animal | {CONCRETE}
    towarzyszyć towarzyszę towarzyszy towarzyszą | dat | person animal | person animal
    przeszkadzać przeszkadzam przeszkadza przeszkadzają | dat | person animal | person animal | ins
    dokuczać dokuczam dokucza dokuczają | dat | person | person animal | ins
    interesować_się interesuję interesuje interesują | ins | person animal | {ALL}
    opiekować_się opiekuję opiekuje opiekują | ins | person | person animal building
    zajmować_się zajmuję zajmuje zajmują | ins | person | animal thing text document
    zachwycać_się zachwycam zachwyca zachwycają | ins | person | {ALL}
    cieszyć_się cieszę cieszy cieszą | ins | person | thing text
    bawić_się bawię bawi bawią | ins | animal | thing
    martwić_się martwię martwi martwią | ins | person | person animal document
    handlować handluję handluje handlują | ins | person | thing animal
"""

# the same with a preposition before the object
PREPOSITIONAL_VERBS = """
    czekać czekam czeka czekają | na acc | person animal | person animal
    spoglądać spoglądam spogląda spoglądają | na acc | person animal | person animal thing building
    myśleć myślę myśli myślą | o loc | person | person animal thing text building
    opowiadać opowiadam opowiada opowiadają | o loc | person | person animal text garden
    marzyć marzę marzy marzą | o loc | person | thing building animal
    pytać pytam pyta pytają | o acc | person | person animal text thing
    dbać dbam dba dbają | o acc | person | person animal thing building
    rozmawiać rozmawiam rozmawia rozmawiają | z ins | person | person
    walczyć walczę walczy walczą | z ins | person animal | person animal
    tęsknić tęsknię tęskni tęsknią | za ins | person animal | person animal building garden
    wracać wracam wraca wracają | do gen | person animal | person building garden
    zbliżać_się zbliżam zbliża zbliżają | do gen | person animal | person animal building water
    korzystać korzystam korzysta korzystają | z gen | person | thing document
    wędrować wędruję wędruje wędrują | przez acc | person animal | garden open
    uciekać uciekam ucieka uciekają | przed ins | person animal | person animal
    protestować protestuję protestuje protestują | przeciwko dat | person | document person
    zmierzać zmierzam zmierza zmierzają | ku dat | person animal | building garden open water
    krążyć krążę krąży krążą | po loc | person animal | garden open building
"""

# no object; said of where the subject is
PLAIN_VERBS = """
    spać śpię śpi śpią | person animal
    siedzieć siedzę siedzi siedzą | person animal
    leżeć leżę leży leżą | person animal thing text document
    stać stoję stoi stoją | person animal thing building
    odpoczywać odpoczywam odpoczywa odpoczywają | person animal
    pracować pracuję pracuje pracują | person
    spacerować spaceruję spaceruje spacerują | person animal
    biegać biegam biega biegają | person animal
    tańczyć tańczę tańczy tańczą | person
    śpiewać śpiewam śpiewa śpiewają | person
    milczeć milczę milczy milczą | person animal
    płakać płaczę płacze płaczą | person
    drżeć drżę drży drżą | person animal
    hałasować hałasuję hałasuje hałasują | person animal
"""

# what an office does with its papers
OFFICIAL_VERBS = """
    podpisywać podpisuję podpisuje podpisują | acc | person | document | ins
    przygotowywać przygotowuję przygotowuje przygotowują | acc | person | document | dat
    zatwierdzać zatwierdzam zatwierdza zatwierdzają | acc | person | document
    odrzucać odrzucam odrzuca odrzucają | acc | person | document
    omawiać omawiam omawia omawiają | acc | person | document
    analizować analizuję analizuje analizują | acc | person | document
    sprawdzać sprawdzam sprawdza sprawdzają | acc | person | document | dat
    publikować publikuję publikuje publikują | acc | person | document | dat
    rozpatrywać rozpatruję rozpatruje rozpatrują | acc | person | document
    składać składam składa składają | acc | person | document | dat
    żądać żądam żąda żądają | gen | person | document
"""
# to whom, what
GIVING_VERBS = """
    przekazywać przekazuję przekazuje przekazują | acc | person | thing text document | dat
    pokazywać pokazuję pokazuje pokazują | acc | person | thing text building document | dat
    oddawać oddaję oddaje oddają | acc | person | thing text document | dat
    pożyczać pożyczam pożycza pożyczają | acc | person | thing text | dat
"""
OFFICIAL_PEOPLE = """
    urzędnik urzędniczka mieszkaniec mieszkanka pracownik obywatel lokator rolnik nauczyciel
    nauczycielka student studentka robotnik gospodarz strażnik kupiec żołnierz
"""

# preposition | case it takes here | every case that it can take | kinds it stands before here
PREPOSITIONS = f"""
    obok | gen | gen | {CONCRETE} water
    koło | gen | gen | {CONCRETE} water
    blisko | gen | gen dat | {CONCRETE} water
    bez | gen | gen | person animal thing
    dzięki | dat | dat | person animal
    przy | loc | loc | person animal thing building water
    przed | ins | ins acc | person animal thing building
    za | ins | ins acc gen | person animal thing building garden
    z | ins | ins gen acc | person animal
    pod | ins | ins acc | building open
    nad | ins | ins acc | water
    w | loc | loc acc | building garden
    na | loc | loc acc | open
"""
