"""Statements of ECG machines and readers in German and Swedish, each with one English rendering of its own.

PTB-XL's reports are rows of such statements, German in the main, some Swedish, some English. The renderings use the
words of the English reports in the same data where there are any. A table is one-to-one, so that a translation can be
turned back into its source; where two spellings mean the same, their renderings differ in a hyphen or a synonym.

Heart axis, which German calls a type: ``linkstyp`` (-30° to 30°) is a leftward axis and still normal,
``ueberdrehter linkstyp`` (beyond -30°) is left axis deviation, ``rechtstyp`` (90° to 120°) a rightward axis,
``ueberdrehter rechtstyp`` (beyond) right axis deviation, ``steiltyp`` (60° to 90°) a vertical axis; in Swedish
``vänster el-axel`` and ``extrem vänster el-axel`` likewise. (PTB-XL's column ``heart_axis`` calls the first two LAD and
ALAD; the words here are those of the statements.)
"""

from __future__ import annotations

#: Places of an infarct or damage: German stem, English.
_PLACES = {
    "anterior": "anterior",
    "anterolateral": "anterolateral",
    "anteroseptal": "anteroseptal",
    "apikal": "apical",
    "inferior": "inferior",
    "inferolateral": "inferolateral",
    "inferoposterior": "inferoposterior",
    "lateral": "lateral",
    "hoch lateral": "high lateral",
    "posterior": "posterior",
    "posterolateral": "posterolateral",
    "septal": "septal",
    "subendokardial": "subendocardial",
    "anterior subendokardial": "anterior subendocardial",
    "inferior subendokardial": "inferior subendocardial",
    "lateral subendokardial": "lateral subendocardial",
}
_GERMAN_MASCULINE = {
    "infarkt": "infarct",
    "myokardinfarkt": "myocardial infarction",
    "myokardschaden": "myocardial damage",
}
_GERMAN_FEMININE = {
    "ischämie": "ischaemia",
    "ischämie oder linksbelastung": "ischaemia or left ventricular strain",
    "myokardischämie": "myocardial ischaemia",
}
_SWEDISH_PLACES = {
    "anterior": "anterior",
    "anterolateral": "anterolateral",
    "anteroseptal": "anteroseptal",
    "inferior": "inferior",
    "inferolateral": "inferolateral",
    "lateral": "lateral",
    "hög lateral": "high lateral",
    "posterior": "posterior",
    "septal": "septal",
    "hög lateral subendokardiell": "high lateral subendocardial",
    "anterior subendokardiell": "anterior subendocardial",
    "inferior subendokardiell": "inferior subendocardial",
    "lateral subendokardiell": "lateral subendocardial",
}
_SWEDISH_FINDINGS = {
    "infarkt": "infarct",
    "myokardskada": "myocardial damage",
    "myokardaffektion": "myocardial involvement",
    "ischemi": "ischaemia",
    "ischemi eller vänster belastning": "ischaemia or left ventricular strain",
}

_GERMAN = {
    # rhythm
    "sinusrhythmus": "sinus rhythm",
    "sinusbradykardie": "sinus bradycardia",
    "sinustachykardie": "sinus tachycardia",
    "sinus arrhythmie": "sinus arrhythmia",
    "sinusarrhythmie": "sinus-arrhythmia",
    "regelmässiger rhythmus": "regular rhythm",
    "unregelmässiger rhythmus": "irregular rhythm",
    "keine p-welle erkannt": "no p wave detected",
    "vorhofflimmern": "atrial fibrillation",
    "vorhofflattern": "atrial flutter",
    "vorhofflimmern/-flattern": "atrial fibrillation/flutter",
    "tachykardes vorhofflimmern": "tachycardic atrial fibrillation",
    "bradykardes vorhofflimmern": "bradycardic atrial fibrillation",
    "vorhofflimmern mit schneller kammerfrequenz": "atrial fibrillation with rapid ventricular response",
    "vorhofflimmern mit langsamer kammerfrequenz": "atrial fibrillation with slow ventricular response",
    "supraventrikuläre tachykardie": "supraventricular tachycardia",
    "ventrikuläre tachykardie": "ventricular tachycardia",
    "supraventrikuläre extrasystole(n)": "supraventricular extrasystole(s)",
    "ventrikuläre extrasystole(n)": "ventricular extrasystole(s)",
    "supraventrikuläre extrasystolen": "supraventricular extrasystoles",
    "ventrikuläre extrasystolen": "ventricular extrasystoles",
    "interponierte ventrikuläre extrasystole(n)": "interpolated ventricular extrasystole(s)",
    "interponierte supraventrikuläre extrasystole(n)": "interpolated supraventricular extrasystole(s)",
    "monotope ventrikuläre extrasystole(n)": "unifocal ventricular extrasystole(s)",
    "polytope ventrikuläre extrasystole(n)": "multifocal ventricular extrasystole(s)",
    "absolute arrhythmie": "absolute arrhythmia",
    "bigeminus": "bigeminy",
    "trigeminus": "trigeminy",
    "ektoper vorhofrhythmus": "ectopic atrial rhythm",
    "knotenrhythmus": "junctional rhythm",
    "kammerrhythmus": "ventricular rhythm",
    "supraventrikuläre ersatzsystole(n)": "supraventricular escape beat(s)",
    "ventrikuläre ersatzsystole(n)": "ventricular escape beat(s)",
    "wandernder schrittmacher": "wandering pacemaker",
    "schrittmacherrhythmus": "pacemaker rhythm",
    "schrittmacher ekg": "ecg of a paced rhythm",
    "pacemaker ekg": "pacemaker ecg",
    "herzschrittmacher": "cardiac pacemaker",
    # axis
    "lagetyp normal": "normal axis",
    "linkstyp": "leftward axis",
    "linkslagetyp": "leftward axis type",
    "ueberdrehter linkstyp": "left axis deviation",
    "überdrehter linkstyp": "left-axis deviation",
    "rechtstyp": "rightward axis",
    "ueberdrehter rechtstyp": "right axis deviation",
    "überdrehter rechtstyp": "right-axis deviation",
    "steiltyp": "vertical axis",
    "steillage": "vertical position",
    "indifferenztyp": "intermediate axis",
    "horizontaltyp": "horizontal axis",
    "sagittaltyp": "sagittal axis",
    "lagetyp nicht bestimmbar": "indeterminate axis",
    "schwierig bestimmbare qrs-achse": "qrs axis difficult to determine",
    "indiff. typ": "intermediate axis type",
    # conduction
    "a-v block i": "first degree a-v block",
    "a-v block ii": "second degree a-v block",
    "a-v block iii": "third degree a-v block",
    "av-block i": "first degree av block",
    "av-block ii": "second degree av block",
    "av-block iii": "third degree av block",
    "av-block 1.grades": "av block of the first degree",
    "verkürztes pr intervall": "shortened pr interval",
    "wpw-syndrom": "wpw syndrome",
    "linksanteriorer hemiblock": "left anterior fascicular block",
    "linksposteriorer hemiblock": "left posterior fascicular block",
    "linksschenkelblock": "left bundle branch block",
    "rechtsschenkelblock": "right bundle branch block",
    "unvollständiger linksschenkelblock": "incomplete left bundle branch block",
    "unvollständiger rechtsschenkelblock": "incomplete right bundle branch block",
    "inkompletter rechtsschenkelblock": "incomplete right bundle-branch block",
    "inkompletter linksschenkelblock": "incomplete left bundle-branch block",
    "kompletter rechtsschenkelblock": "complete right bundle branch block",
    "kompletter linksschenkelblock": "complete left bundle branch block",
    "bifaszikulärer block": "bifascicular block",
    "trifaszikulärer block": "trifascicular block",
    "intraventrikuläre leitungsstörung": "intraventricular conduction disturbance",
    "unspezifische intraventrikuläre leitungsstörung": "non-specific intraventricular conduction disturbance",
    "unspezifischer intraventrikulärer block": "non-specific intraventricular block",
    # waves
    "p-verbreiterung": "p wave widening",
    "p-sinistrocardiale": "p sinistrocardiale",
    "p-dextrocardiale": "p dextrocardiale",
    "verdacht auf p-sinistrocardiale": "suspected p sinistrocardiale",
    "verdacht auf p-dextrocardiale": "suspected p dextrocardiale",
    "p-mitrale": "p mitrale",
    "p-pulmonale": "p pulmonale",
    "qt-verlängerung": "prolonged qt",
    "qt-verkürzung": "shortened qt",
    "qrs(t) abnormal": "abnormal qrs(t)",
    "t abnormal": "abnormal t",
    "st abnormal": "abnormal st",
    "st & t abnormal": "abnormal st & t",
    "unspezifisches abnormales t": "non-specific t wave abnormality",
    "unspezifisches abnormes t": "non-specific t wave anomaly",
    "unspezifische st-t veränderungen": "non-specific st-t changes",
    "unspezifische st & t abnormalität": "non-specific st & t abnormality",
    "pathologische repolarisation": "pathological repolarization",
    "st-senkung": "st depression",
    "st-hebung": "st elevation",
    "st-t senkung": "st-t depression",
    "t-veränderung": "t wave change",
    "t-negativierung": "t wave inversion",
    "t-abflachung": "t wave flattening",
    "schlechte r-progression": "poor r wave progression",
    "fehlende r-progression": "absent r wave progression",
    "r-s #bergang in v ableitungen nach rechts verschoben": ("r-s transition zone in v leads displaced to the right"),
    "r-s #bergang in v ableitungen nach links verschoben": "r-s transition zone in v leads displaced to the left",
    "periphere niederspannung": "low limb lead voltage",
    "niederspannung": "low voltage",
    "t neg": "t neg",
    # chambers
    "amplitudenkriterien f#r linkshypertrophie": "amplitude criteria for left ventricular hypertrophy",
    "amplitudenkriterien f#r rechtshypertrophie": "amplitude criteria for right ventricular hypertrophy",
    "mässige amplitudenkriterien f#r linkshypertrophie": (
        "moderate amplitude criteria for left ventricular hypertrophy"
    ),
    "mässige amplitudenkriterien f#r rechtshypertrophie": (
        "moderate amplitude criteria for right ventricular hypertrophy"
    ),
    "linkshypertrophie": "left ventricular hypertrophy",
    "rechtshypertrophie": "right ventricular hypertrophy",
    "verdacht auf linkshypertrophie": "suspected left ventricular hypertrophy",
    "verdacht auf rechtshypertrophie": "suspected right ventricular hypertrophy",
    "biventrikuläre hypertrophie": "biventricular hypertrophy",
    "kammerhypertrophie": "ventricular hypertrophy",
    "linksbelastung": "left ventricular strain",
    "rechtsbelastung": "right ventricular strain",
    "vorhofsueberlastung": "atrial overload",
    "vorhofsueberlastung links": "left atrial overload",
    "vorhofsueberlastung rechts": "right atrial overload",
    "digitaliseffekt": "digitalis effect",
    # how sure, how old
    "möglich": "possible",
    "moeglich": "possibly",
    "nicht auszuschliessen": "cannot be excluded",
    "wahrscheinlich": "probably",
    "alter unbest": "age undetermined",
    "alter unbestimmt": "of undetermined age",
    "wahrscheinlich alt": "probably old",
    "wahrscheinlich frisch": "probably recent",
    "möglicherweise frisch": "possibly recent",
    "möglicherweise akut": "possibly acute",
    "möglicherweise neu": "possibly new",
    "wahrscheinlich akut": "probably acute",
    # whole
    "normales ekg": "normal ecg",
    "ekg normal": "ecg normal",
    "normal": "normal",
    "sonst normales ekg": "otherwise normal ecg",
    "abnormales ekg": "abnormal ecg",
    "pathologisches ekg": "pathological ecg",
    "pathologisch": "pathological",
    "grenzwertiges ekg": "borderline ecg",
    "grenzbefund": "borderline finding",
    "wahrscheinlich normal": "probably normal",
    "wahrscheinlich pathologisch": "probably pathological",
    "unbestätigter bericht": "unconfirmed report",
    "mit vorderwandaneurysma": "with anterior wall aneurysm",
    "lvh": "lvh",
    "in": "in",
    "und": "and",
    "mit": "with",
}

_SWEDISH = {
    # rhythm
    "sinusrytm": "sinus rhythm",
    "sinusbradykardi": "sinus bradycardia",
    "sinustachykardi": "sinus tachycardia",
    "sinus arytmi": "sinus arrhythmia",
    "regelbunden rytm": "regular rhythm",
    "oregelbunden rytm": "irregular rhythm",
    "inga p-våg funna": "no p waves found",
    "förmaksflimmer": "atrial fibrillation",
    "förmaksfladder": "atrial flutter",
    "förmaksflimmer/-fladder": "atrial fibrillation/flutter",
    "förmaksflimmer med hög kammarfrekvens": "atrial fibrillation with rapid ventricular response",
    "förmaksflimmer med låg kammarfrekvens": "atrial fibrillation with slow ventricular response",
    "förmaksflimmer/-fladder med hög kammarfrekvens": "atrial fibrillation/flutter with rapid ventricular response",
    "förmaksflimmer/-fladder med låg kammarfrekvens": "atrial fibrillation/flutter with slow ventricular response",
    "supraventrikulär tachykardi": "supraventricular tachycardia",
    "ventrikulär tachykardi": "ventricular tachycardia",
    "ventrikulär(a) extrasystoli(er)": "ventricular extrasystole(s)",
    "supraventrikulär(a) extrasystoli(er)": "supraventricular extrasystole(s)",
    "interpolerade ventrikulär(a) extrasystoli(er)": "interpolated ventricular extrasystole(s)",
    "interpolerade supraventrikulär(a) extrasystoli(er)": "interpolated supraventricular extrasystole(s)",
    "ventrikulär(a) escape beat(s)": "ventricular escape beat(s)",
    "supraventrikulär(a) escape beat(s)": "supraventricular escape beat(s)",
    "ventrikulära extraslag": "ventricular premature beats",
    "supraventrikulära extraslag": "supraventricular premature beats",
    "slag med avvikande impulsutbredning": "aberrantly conducted beats",
    "bigemini": "bigeminy",
    "trigemini": "trigeminy",
    "pacemaker ekg": "pacemaker ecg",
    "pacemakerrytm": "pacemaker rhythm",
    # axis
    "vänster el-axel": "leftward axis",
    "höger el-axel": "rightward axis",
    "extrem vänster el-axel": "extreme left axis deviation",
    "extrem höger el-axel": "extreme right axis deviation",
    "svårbestämmbar el-axel": "indeterminate axis",
    # conduction
    "a-v block i": "first degree a-v block",
    "a-v block ii": "second degree a-v block",
    "a-v block iii": "third degree a-v block",
    "av-block i": "first degree av block",
    "av-block ii": "second degree av block",
    "av-block iii": "third degree av block",
    "wpw syndrom": "wpw syndrome",
    "överväg wpw syndrom": "consider wpw syndrome",
    "typ a": "type a",
    "typ b": "type b",
    "vänster anteriort hemiblock": "left anterior fascicular block",
    "vänster främre hemiblock": "left front fascicular block",
    "vänster posteriort hemiblock": "left posterior fascicular block",
    "vänstersidigt skänkelblock": "left bundle branch block",
    "högersidigt skänkelblock": "right bundle branch block",
    "inkomplett vänstersidigt skänkelblock": "incomplete left bundle branch block",
    "inkomplett högersidigt skänkelblock": "incomplete right bundle branch block",
    "inkomplett hgersidigt skänkelblock": "incomplete right bundle-branch block",
    "ospecifikt skänkelblock": "non-specific bundle branch block",
    "ospecifikt inkomplett skänkelblock": "non-specific incomplete bundle branch block",
    "intraventrikulärt retledningshinder": "intraventricular conduction disturbance",
    "bifascikulärt block": "bifascicular block",
    # waves
    "p förlängd": "p wave prolonged",
    "qt förlängd": "qt prolonged",
    "avvikande qrs(t) förlopp": "abnormal qrs(t) contour",
    "låga qrs amplituder i extremitetsavledningarna": "low qrs amplitudes in the limb leads",
    "bröstavledningarnas r-s transition förskjuten": "r-s transition of the chest leads displaced",
    "åt höger": "to the right",
    "åt vänster": "to the left",
    "patologisk q-våg": "pathological q wave",
    "st sänkning": "st depression",
    "st höjning": "st elevation",
    "st-t sänkning": "st-t depression",
    "st-t förändring": "st-t change",
    "ospecifik st-t förändring": "non-specific st-t change",
    "ospecifik st-t förändring (höjning)": "non-specific st-t change (elevation)",
    "ospecifik st-t förändring (sänkning)": "non-specific st-t change (depression)",
    "st-förändring": "st change",
    "ospecifik st-förändring": "non-specific st change",
    "t-förändring": "t wave change",
    "ospecifik t-förändring": "non-specific t wave change",
    # chambers
    "vänster kammarhypertrofi": "left ventricular hypertrophy",
    "höger kammarhypertrofi": "right ventricular hypertrophy",
    "amplitudkriterier för vänster kammarhypertrofi": "amplitude criteria for left ventricular hypertrophy",
    "amplitudkriterier för höger kammarhypertrofi": "amplitude criteria for right ventricular hypertrophy",
    "misstänkt vänster kammarhypertrofi": "suspected left ventricular hypertrophy",
    "måttliga amplitudkrit. för vänster kammarkhypertrofi": (
        "moderate amplitude criteria for left ventricular hypertrophy"
    ),
    "måttliga amplitudkrit. för höger kammarkhypertrofi": (
        "moderate amplitude criteria for right ventricular hypertrophy"
    ),
    "vänster kammarbelastning": "left-ventricular strain",
    "hypertrofi av vänster förmak": "enlargement of the left atrium",
    "hypertrofi av höger förmak": "enlargement of the right atrium",
    "misstänkt hypertrofi av vänster förmak": "suspected enlargement of the left atrium",
    "misstänkt hypertrofi av höger förmak": "suspected enlargement of the right atrium",
    "vänster belastning": "left ventricular strain",
    "digitaliseffekt": "digitalis effect",
    # how sure, how old
    "kan ej uteslutas": "cannot be excluded",
    "bör övervägas": "should be considered",
    "såsom vid": "as in",
    "möjligen orsakad av": "possibly caused by",
    "ålder ej bestämmbar": "age undeterminable",
    "möjligen färsk": "possibly recent",
    "sannolikt färsk": "probably recent",
    "sannolikt äldre": "probably older",
    "gammal": "old",
    "oförändrat": "unchanged",
    "jmf med": "compared with",
    "inget säkert patologiskt": "no definite pathology",
    # whole
    "ekg": "ecg",
    "normalt ekg": "normal ecg",
    "eljest normalt ekg": "otherwise normal ecg",
    "i": "in",
    "och": "and",
    "med": "with",
}

_ENGLISH = """
    accord accords acute age also amplitudes anterior appears appropriate artefact artifact atrial axis beats borderline
    bradycardia broad cause cannot changes chest coarse combination common commonly compared complexes conduction
    consistent contour contraction contractions criteria deep definite delay depressed depression deviation difficult
    digitalis disease disorder displaced disturbance drug ecg effect electrolyte elevated elevation enlargement evidence
    evident except exclude excluded fascicular fibrillation findings flat flattened flattening flutter for from
    frequent have has hypertrophy hypokalaemia incomplete indicated infarct infarction inferior inferolateral interval
    intraventricular inversion inverted ischaemia ischaemic lateral lead leads left likely limb limit long low lower lvh
    marked may minor mitral mild most myocardial non-specific normal not old otherwise patient pathology persist
    poor possible possibly premature previous previously probable probably progression prolonged pulmonary rate recent
    recurrence remains repeat requested response right rhythm segment segments septal short significance similar since
    slight slightly slow small specific standardization strain subendocardial suggest suggesting suggests suggestive
    tachycardia the there these this throughout tiny tomorrow tracing tracings trace trigeminy uncertain unless unusual
    upper variant ventricular very voltages was wave waves widespread with within view clinically consider considered
    probably heart could due been only now than are but that which other cardiac supraventricular pacemaker paced
"""
#: Words of English reports, with those of the renderings above; an English report is told by them, never translated.
ENGLISH_WORDS = frozenset(_ENGLISH.split())


def _tables() -> dict[str, dict[str, str]]:
    german, swedish = dict(_GERMAN), dict(_SWEDISH)
    for place, english in _PLACES.items():
        for ending, findings in (("er", _GERMAN_MASCULINE), ("e", _GERMAN_FEMININE)):
            german |= {f"{place}{ending} {word}": f"{english} {meaning}" for word, meaning in findings.items()}
    for place, english in _SWEDISH_PLACES.items():
        swedish |= {f"{place} {word}": f"{english} {meaning}" for word, meaning in _SWEDISH_FINDINGS.items()}
    return {"de": german, "sv": swedish}


#: language → statement (lower case) → English.
PHRASES: dict[str, dict[str, str]] = _tables()
