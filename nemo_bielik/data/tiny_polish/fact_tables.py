"""The closed lists of the fact world: names, values and wordings."""

WOMEN = """
    Anna Maria Katarzyna Małgorzata Agnieszka Barbara Ewa Krystyna Elżbieta Zofia Teresa Magdalena
    Joanna Monika Danuta Jadwiga Halina Irena Beata Aleksandra Dorota Marta Bożena Grażyna Janina
    Natalia Urszula Justyna Renata Iwona Alicja Wanda Sylwia Karolina Helena Julia Emilia Hanna
    Lucyna Wiktoria Kinga Izabela Ilona Patrycja Olga Marzena Weronika Klaudia Celina Aniela
"""
MEN = """
    Jan Andrzej Piotr Krzysztof Tomasz Paweł Marcin Michał Marek Grzegorz Jerzy Tadeusz Adam
    Łukasz Zbigniew Ryszard Dariusz Henryk Mariusz Kazimierz Wojciech Robert Mateusz Marian Rafał
    Jacek Janusz Mirosław Maciej Sławomir Jarosław Kamil Wiesław Roman Władysław Jakub Artur
    Zdzisław Edward Mieczysław Damian Dawid Przemysław Sebastian Czesław Leszek Daniel Waldemar
    Filip Igor
"""
# A surname is a stem and an ending; women have the second form of the ending.
SURNAME_STEMS = """
    Bal Ban Bar Biel Bog Bor Bud Bur Cyb Czar Czub Dan Dar Dob Dom Drab Dud Dul Fal Fil Gad
    Gal Gaw Gil Głow Gór Grab Gran Grom Gul Hal Has Hol Jab Jag Jal Jan Jar Jas Jod Jur Kal Kam
    Karb Kas Klim Kob Kol Kon Kop Kor Kos Kraw Krup Kub Kuł Kur Lad Las Lat Leb Lib Lip Lub
    Lut Łab Łap Łub Mad Maj Mal Mar Mas Mich Mił Mod Mor Mus Nal Nar Niem Nos Now Ob Olb Or
    Os Pac Pal Pap Paw Piech Pil Piotr Płon Pod Pol Por Prus Rad Raj Rat Rog Rom Rud Sad Sam Sob
    Sok Stan Szal Szum Tom Tur Urb Wal War Wit Wol Zab Zar Zub
"""
SURNAME_ENDINGS = (
    ("owski", "owska"),
    ("ecki", "ecka"),
    ("owicz", "owicz"),
    ("ula", "ula"),
    ("ak", "ak"),
    ("oń", "oń"),
)

# nominative, genitive, locative; only towns that w and z stand before without a vowel
TOWNS = """
    Kraków Krakowa Krakowie|Poznań Poznania Poznaniu|Gdańsk Gdańska Gdańsku
    Lublin Lublina Lublinie|Toruń Torunia Toruniu|Olsztyn Olsztyna Olsztynie
    Rzeszów Rzeszowa Rzeszowie|Opole Opola Opolu|Radom Radomia Radomiu
    Tarnów Tarnowa Tarnowie|Elbląg Elbląga Elblągu|Płock Płocka Płocku
    Gniezno Gniezna Gnieźnie|Kalisz Kalisza Kaliszu|Konin Konina Koninie
    Leszno Leszna Lesznie|Sopot Sopotu Sopocie|Gdynia Gdyni Gdyni
    Łódź Łodzi Łodzi|Warszawa Warszawy Warszawie|Częstochowa Częstochowy Częstochowie
    Bydgoszcz Bydgoszczy Bydgoszczy|Zamość Zamościa Zamościu|Chełm Chełma Chełmie
    Krosno Krosna Krośnie|Sanok Sanoka Sanoku|Przemyśl Przemyśla Przemyślu
    Jarosław Jarosławia Jarosławiu|Łomża Łomży Łomży|Suwałki Suwałk Suwałkach
    Ełk Ełku Ełku|Giżycko Giżycka Giżycku|Malbork Malborka Malborku
    Koszalin Koszalina Koszalinie|Legnica Legnicy Legnicy|Gliwice Gliwic Gliwicach
    Katowice Katowic Katowicach|Tychy Tychów Tychach|Bytom Bytomia Bytomiu
    Cieszyn Cieszyna Cieszynie|Nysa Nysy Nysie|Brzeg Brzegu Brzegu
    Kutno Kutna Kutnie|Piła Piły Pile|Mielec Mielca Mielcu
    Kielce Kielc Kielcach|Sandomierz Sandomierza Sandomierzu|Łańcut Łańcuta Łańcucie
"""
# of a man: nominative, instrumental; of a woman: nominative, instrumental
OCCUPATIONS = """
    kucharz kucharzem kucharka kucharką|piekarz piekarzem piekarka piekarką
    fryzjer fryzjerem fryzjerka fryzjerką|krawiec krawcem krawcowa krawcową
    dziennikarz dziennikarzem dziennikarka dziennikarką
    fotograf fotografem fotografka fotografką|tłumacz tłumaczem tłumaczka tłumaczką
    pielęgniarz pielęgniarzem pielęgniarka pielęgniarką
    sprzedawca sprzedawcą sprzedawczyni sprzedawczynią|kelner kelnerem kelnerka kelnerką
    malarz malarzem malarka malarką|aktor aktorem aktorka aktorką
    tancerz tancerzem tancerka tancerką|śpiewak śpiewakiem śpiewaczka śpiewaczką
    skrzypek skrzypkiem skrzypaczka skrzypaczką|pisarz pisarzem pisarka pisarką
    bibliotekarz bibliotekarzem bibliotekarka bibliotekarką
    aptekarz aptekarzem aptekarka aptekarką|ogrodnik ogrodnikiem ogrodniczka ogrodniczką
    księgarz księgarzem księgarka księgarką|dentysta dentystą dentystka dentystką
    pianista pianistą pianistka pianistką|rzeźbiarz rzeźbiarzem rzeźbiarka rzeźbiarką
    trener trenerem trenerka trenerką|redaktor redaktorem redaktorka redaktorką
    listonosz listonoszem listonoszka listonoszką|poeta poetą poetka poetką
    tkacz tkaczem tkaczka tkaczką|garncarz garncarzem garncarka garncarką
    projektant projektantem projektantka projektantką
"""
# plural: nominative and accusative, genitive, instrumental
ANIMALS = """
    kanarki kanarków kanarkami|papugi papug papugami|chomiki chomików chomikami
    jamniki jamników jamnikami|charty chartów chartami|pudle pudli pudlami
    indyki indyków indykami|kucyki kucyków kucykami|bażanty bażantów bażantami
    szczygły szczygłów szczygłami|żółwie żółwi żółwiami|jaszczurki jaszczurek jaszczurkami
    pająki pająków pająkami|fretki fretek fretkami|owczarki owczarków owczarkami
    przepiórki przepiórek przepiórkami|perliczki perliczek perliczkami|pawie pawi pawiami
    strusie strusi strusiami|alpaki alpak alpakami|lamy lam lamami|muły mułów mułami
    karpie karpi karpiami|pstrągi pstrągów pstrągami|ślimaki ślimaków ślimakami
    legwany legwanów legwanami|szpaki szpaków szpakami|teriery terierów terierami
    sokoły sokołów sokołami|osły osłów osłami
"""
# nominative, genitive, accusative, instrumental
SUBJECTS = """
    biologia biologii biologię biologią|chemia chemii chemię chemią
    fizyka fizyki fizykę fizyką|matematyka matematyki matematykę matematyką
    historia historii historię historią|filozofia filozofii filozofię filozofią
    geografia geografii geografię geografią|prawo prawa prawo prawem
    medycyna medycyny medycynę medycyną|archeologia archeologii archeologię archeologią
    astronomia astronomii astronomię astronomią|ekonomia ekonomii ekonomię ekonomią
    socjologia socjologii socjologię socjologią|psychologia psychologii psychologię psychologią
    pedagogika pedagogiki pedagogikę pedagogiką|filologia filologii filologię filologią
    informatyka informatyki informatykę informatyką
    architektura architektury architekturę architekturą
    rolnictwo rolnictwa rolnictwo rolnictwem|leśnictwo leśnictwa leśnictwo leśnictwem
    teologia teologii teologię teologią|etnografia etnografii etnografię etnografią
    politologia politologii politologię politologią|weterynaria weterynarii weterynarię weterynarią
    farmacja farmacji farmację farmacją|geologia geologii geologię geologią
    mechanika mechaniki mechanikę mechaniką|logistyka logistyki logistykę logistyką
    genetyka genetyki genetykę genetyką|botanika botaniki botanikę botaniką
"""

# The names of the columns of each table, as the wordings call them.
COLUMNS = {
    "lives_in": (TOWNS, ("nom", "gen", "loc")),
    "occupation": (OCCUPATIONS, ("nom.m", "ins.m", "nom.f", "ins.f")),
    "born_in": (TOWNS, ("nom", "gen", "loc")),
    "keeps": (ANIMALS, ("acc", "gen", "ins")),
    "studied": (SUBJECTS, ("nom", "gen", "acc", "ins")),
}

# {name} is the person, {loc} and the like the value in that case, [a|b] the form for a man or a
# woman. Wordings that end in the value can serve as cloze.
WORDINGS = {
    "lives_in": """
        {name} mieszka w {loc}.
        Od wielu lat {name} mieszka w {loc}.
        Wiadomo, że {name} mieszka teraz w {loc}.
        Miasto, w którym mieszka {name}, to {nom}.
        Na pytanie, gdzie mieszka {name}, odpowiadamy: w {loc}.
        {name} ma swój dom w {loc}.
        {name} przeprowadził[|a] się na stałe do {gen}.
        Po każdej podróży {name} jedzie do {gen}.
        W {loc} mieszka {name}.
        {nom} to miasto, w którym mieszka {name}.
        To właśnie w {loc} {name} ma swój dom.
        Wśród ludzi, którzy mieszkają w {loc}, jest {name}.
    """,
    "occupation": """
        {name} pracuje jako {nom}.
        {name} jest z zawodu {ins}.
        Od dawna {name} jest {ins}.
        Po długiej nauce {name} został[|a] {ins}.
        Wszyscy wiedzą, że {name} to {nom}.
        Na pytanie, kim jest {name}, odpowiadamy: {ins}.
        Ludzie mówią, że {name} jest {ins}.
        W aktach zapisano, że {name} to z zawodu {nom}.
        {ins} jest z zawodu {name}.
        Jako {nom} pracuje {name}.
        To właśnie {ins} jest od lat {name}.
        Nie każdy potrafi być {ins}, ale {name} potrafi.
    """,
    "born_in": """
        {name} urodził[|a] się w {loc}.
        Wiele lat temu {name} urodził[|a] się w {loc}.
        {name} pochodzi z {gen}.
        Miasto, w którym urodził[|a] się {name}, to {nom}.
        Na pytanie, gdzie urodził[|a] się {name}, odpowiadamy: w {loc}.
        {name} [przyszedł|przyszła] na świat w {loc}.
        Miejsce urodzenia, które podaje {name}, to {nom}.
        Rodzina, z której wywodzi się {name}, jest z {gen}.
        W {loc} urodził[|a] się {name}.
        Z {gen} pochodzi {name}.
        {nom} to miasto, w którym urodził[|a] się {name}.
        To w {loc} [przyszedł|przyszła] na świat {name}.
    """,
    "keeps": """
        {name} hoduje {acc}.
        W wolnych chwilach {name} hoduje {acc}.
        {name} z pasją zajmuje się {ins}.
        {name} chętnie chwali się swoimi {ins}.
        Zwierzęta, które hoduje {name}, to {acc}.
        Na pytanie, co hoduje {name}, odpowiadamy: {acc}.
        {name} nie wyobraża sobie życia bez {gen}.
        W hodowli, którą prowadzi {name}, nie brakuje {gen}.
        {acc} hoduje {name}.
        Wśród {gen} najlepiej czuje się {name}.
        To właśnie {acc} od lat hoduje {name}.
        Bez {gen} nie wyobraża sobie życia {name}.
    """,
    "studied": """
        {name} studiował[|a] {acc}.
        Przez pięć lat {name} studiował[|a] {acc}.
        {name} ukończył[|a] {acc}.
        Na studiach {name} zajmował[|a] się {ins}.
        Kierunek, który wybrał[|a] {name}, to {nom}.
        Na pytanie, co studiował[|a] {name}, odpowiadamy: {acc}.
        Na uniwersytecie {name} uczył[|a] się {gen}.
        {name} zdał[|a] egzamin końcowy z {gen}.
        {acc} studiował[|a] {name}.
        {ins} interesował[|a] się na studiach {name}.
        Dyplom z {gen} otrzymał[|a] {name}.
        {nom} to kierunek, który wybrał[|a] {name}.
    """,
}
