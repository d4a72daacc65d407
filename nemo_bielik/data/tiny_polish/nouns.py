"""The noun tables: principal parts, one noun a line, grouped by declension and by kind.

A kind says what the noun names and so which words it goes with: person, animal, thing, text,
document, building, garden (ground one is *in*), open (ground one is *on*), water.
Exceptions follow the parts as ``case.number=form``; a case without a number is singular.
Names of offices that stand for a woman as well (lekarz, minister) and gość are left out on purpose:
with them a feminine verb is no mistake.
"""

# nominative, genitive, locative, nominative plural, genitive plural
PERSONAL = {
    "person": """
        chłopiec chłopca chłopcu chłopcy chłopców dat=chłopcu voc=chłopcze
        ojciec ojca ojcu ojcowie ojców dat=ojcu voc=ojcze
        syn syna synu synowie synów
        dziadek dziadka dziadku dziadkowie dziadków
        wujek wujka wujku wujkowie wujków
        kuzyn kuzyna kuzynie kuzyni kuzynów
        sąsiad sąsiada sąsiedzie sąsiedzi sąsiadów
        uczeń ucznia uczniu uczniowie uczniów
        student studenta studencie studenci studentów
        nauczyciel nauczyciela nauczycielu nauczyciele nauczycieli
        król króla królu królowie królów
        rycerz rycerza rycerzu rycerze rycerzy
        żołnierz żołnierza żołnierzu żołnierze żołnierzy
        strażnik strażnika strażniku strażnicy strażników
        rolnik rolnika rolniku rolnicy rolników
        rybak rybaka rybaku rybacy rybaków
        pasterz pasterza pasterzu pasterze pasterzy
        gospodarz gospodarza gospodarzu gospodarze gospodarzy
        kupiec kupca kupcu kupcy kupców voc=kupcze
        mieszkaniec mieszkańca mieszkańcu mieszkańcy mieszkańców voc=mieszkańcze
        urzędnik urzędnika urzędniku urzędnicy urzędników
        pracownik pracownika pracowniku pracownicy pracowników
        robotnik robotnika robotniku robotnicy robotników
        obywatel obywatela obywatelu obywatele obywateli
        lokator lokatora lokatorze lokatorzy lokatorów
        podróżnik podróżnika podróżniku podróżnicy podróżników
        pielgrzym pielgrzyma pielgrzymie pielgrzymi pielgrzymów
    """,
}
ANIMATE = {
    "animal": """
        kot kota kocie koty kotów dat=kotu
        pies psa psie psy psów dat=psu
        koń konia koniu konie koni ins.pl=końmi
        ptak ptaka ptaku ptaki ptaków
        lis lisa lisie lisy lisów
        wilk wilka wilku wilki wilków
        niedźwiedź niedźwiedzia niedźwiedziu niedźwiedzie niedźwiedzi
        jeleń jelenia jeleniu jelenie jeleni
        baran barana baranie barany baranów
        kogut koguta kogucie koguty kogutów
        bocian bociana bocianie bociany bocianów
        motyl motyla motylu motyle motyli
        jeż jeża jeżu jeże jeży
        wróbel wróbla wróblu wróble wróbli
        słoń słonia słoniu słonie słoni
        gołąb gołębia gołębiu gołębie gołębi
        byk byka byku byki byków
        żubr żubra żubrze żubry żubrów
    """,
}
INANIMATE = {
    "thing": """
        stół stołu stole stoły stołów
        samochód samochodu samochodzie samochody samochodów
        rower roweru rowerze rowery rowerów
        klucz klucza kluczu klucze kluczy
        zegar zegara zegarze zegary zegarów
        nóż noża nożu noże noży
        kosz kosza koszu kosze koszy
        płaszcz płaszcza płaszczu płaszcze płaszczy
        kapelusz kapelusza kapeluszu kapelusze kapeluszy
        wózek wózka wózku wózki wózków
        garnek garnka garnku garnki garnków
        kubek kubka kubku kubki kubków
        sweter swetra swetrze swetry swetrów
        namiot namiotu namiocie namioty namiotów
        fotel fotela fotelu fotele foteli
        obraz obrazu obrazie obrazy obrazów
        telefon telefonu telefonie telefony telefonów
        kamień kamienia kamieniu kamienie kamieni
        statek statku statku statki statków
    """,
    "text": """
        list listu liście listy listów
        wiersz wiersza wierszu wiersze wierszy
        zeszyt zeszytu zeszycie zeszyty zeszytów
    """,
    "document": """
        dokument dokumentu dokumencie dokumenty dokumentów
        wniosek wniosku wniosku wnioski wniosków
        projekt projektu projekcie projekty projektów
        plan planu planie plany planów
        protokół protokołu protokole protokoły protokołów
        raport raportu raporcie raporty raportów
    """,
    "building": """
        dom domu domu domy domów
        zamek zamku zamku zamki zamków
        kościół kościoła kościele kościoły kościołów
        sklep sklepu sklepie sklepy sklepów
        budynek budynku budynku budynki budynków
    """,
    "garden": """
        ogród ogrodu ogrodzie ogrody ogrodów
        las lasu lesie lasy lasów
        park parku parku parki parków
    """,
    "open": """
        most mostu moście mosty mostów
        plac placu placu place placów
        dworzec dworca dworcu dworce dworców
    """,
}
# nominative, genitive, dative and locative, nominative plural, genitive plural
FEMININE = {
    "person": """
        kobieta kobiety kobiecie kobiety kobiet
        matka matki matce matki matek
        siostra siostry siostrze siostry sióstr
        córka córki córce córki córek
        ciotka ciotki ciotce ciotki ciotek
        babcia babci babci babcie babć voc=babciu
        sąsiadka sąsiadki sąsiadce sąsiadki sąsiadek
        uczennica uczennicy uczennicy uczennice uczennic
        dziewczynka dziewczynki dziewczynce dziewczynki dziewczynek
        studentka studentki studentce studentki studentek
        nauczycielka nauczycielki nauczycielce nauczycielki nauczycielek
        urzędniczka urzędniczki urzędniczce urzędniczki urzędniczek
        mieszkanka mieszkanki mieszkance mieszkanki mieszkanek
    """,
    "animal": """
        krowa krowy krowie krowy krów
        koza kozy kozie kozy kóz
        owca owcy owcy owce owiec
        kura kury kurze kury kur
        kaczka kaczki kaczce kaczki kaczek
        sowa sowy sowie sowy sów
        wiewiórka wiewiórki wiewiórce wiewiórki wiewiórek
        żaba żaby żabie żaby żab
        ryba ryby rybie ryby ryb
        pszczoła pszczoły pszczole pszczoły pszczół
    """,
    "thing": """
        lampa lampy lampie lampy lamp
        szafa szafy szafie szafy szaf
        torba torby torbie torby toreb
        walizka walizki walizce walizki walizek
        czapka czapki czapce czapki czapek
        sukienka sukienki sukience sukienki sukienek
        koszula koszuli koszuli koszule koszul
        tablica tablicy tablicy tablice tablic
        mapa mapy mapie mapy map
        skrzynia skrzyni skrzyni skrzynie skrzyń
        łódka łódki łódce łódki łódek
        ławka ławki ławce ławki ławek
        zabawka zabawki zabawce zabawki zabawek
    """,
    "text": """
        książka książki książce książki książek
        gazeta gazety gazecie gazety gazet
        bajka bajki bajce bajki bajek
    """,
    "document": """
        ustawa ustawy ustawie ustawy ustaw
        umowa umowy umowie umowy umów
        decyzja decyzji decyzji decyzje decyzji
        uchwała uchwały uchwale uchwały uchwał
        skarga skargi skardze skargi skarg
        faktura faktury fakturze faktury faktur
        notatka notatki notatce notatki notatek
    """,
    "building": """
        szkoła szkoły szkole szkoły szkół
        chata chaty chacie chaty chat
        wieża wieży wieży wieże wież
        piwnica piwnicy piwnicy piwnice piwnic
        apteka apteki aptece apteki aptek
        fabryka fabryki fabryce fabryki fabryk
        biblioteka biblioteki bibliotece biblioteki bibliotek
    """,
    "garden": """
        wioska wioski wiosce wioski wiosek
        dolina doliny dolinie doliny dolin
    """,
    "open": """
        ulica ulicy ulicy ulice ulic
        ścieżka ścieżki ścieżce ścieżki ścieżek
        łąka łąki łące łąki łąk
        stacja stacji stacji stacje stacji
        polana polany polanie polany polan
        wyspa wyspy wyspie wyspy wysp
    """,
    "water": """
        rzeka rzeki rzece rzeki rzek
        zatoka zatoki zatoce zatoki zatok
    """,
}
# nominative, genitive, instrumental, nominative plural, genitive plural
FEMININE_CONSONANT = {
    "animal": "mysz myszy myszą myszy myszy",
    "thing": """
        gałąź gałęzi gałęzią gałęzie gałęzi
        sieć sieci siecią sieci sieci
    """,
    "text": """
        powieść powieści powieścią powieści powieści
        opowieść opowieści opowieścią opowieści opowieści
    """,
    "open": "przystań przystani przystanią przystanie przystani",
}
# nominative, genitive, locative, genitive plural
NEUTER = {
    "thing": """
        okno okna oknie okien
        drzewo drzewa drzewie drzew
        krzesło krzesła krześle krzeseł
        lustro lustra lustrze luster
        pióro pióra piórze piór
        łóżko łóżka łóżku łóżek
        biurko biurka biurku biurek
        pudełko pudełka pudełku pudełek
        wiadro wiadra wiadrze wiader
        gniazdo gniazda gnieździe gniazd
    """,
    "document": """
        pismo pisma piśmie pism
        ogłoszenie ogłoszenia ogłoszeniu ogłoszeń
        sprawozdanie sprawozdania sprawozdaniu sprawozdań
        zezwolenie zezwolenia zezwoleniu zezwoleń
        zaświadczenie zaświadczenia zaświadczeniu zaświadczeń
    """,
    "building": """
        mieszkanie mieszkania mieszkaniu mieszkań
        biuro biura biurze biur
    """,
    "garden": "miasto miasta mieście miast",
    "open": """
        pole pola polu pól
        podwórko podwórka podwórku podwórek
        wzgórze wzgórza wzgórzu wzgórz
    """,
    "water": """
        jezioro jeziora jeziorze jezior
        morze morza morzu mórz
    """,
}
# nominative
YOUNG = {
    "person": "dziewczę chłopię",
    "animal": "zwierzę kocię szczenię jagnię źrebię prosię pisklę cielę",
}
