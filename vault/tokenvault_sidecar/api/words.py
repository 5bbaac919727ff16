"""What the consumer is told, in their language."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Face(StrEnum):
    """How it ended, as far as the consumer is concerned."""

    DONE = "done"
    CODE = "code"
    DECLINED = "declined"
    USED = "used"
    WAIT = "wait"
    WRONG = "wrong"


Words = Mapping[str, str]
"""A title and a text for each face, "face" and "face.text".

"may" goes before what was granted, "code.may" where that is locked yet; "code.only" under a code.
"""

DEFAULT: Final = "en"
RIGHT_TO_LEFT: Final = frozenset({"he"})

LANGUAGES: Final[Mapping[str, Words]] = {
    "en": {
        "done": "You are logged in",
        "done.text": "You can close this window and go back to the conversation.",
        "may": "The assistant may now, in your name:",
        "code": "One more step",
        "code.text": "You are logged in. The assistant gets access only when you type this code into your "
        "conversation:",
        "code.only": "Did somebody send you the link to this page? Then tell nobody the code, and close this "
        "window: nothing is shared.",
        "code.may": "With the code you let the assistant, in your name:",
        "declined": "You have not agreed",
        "declined.text": "Nothing was shared. You can close this window and go back to the conversation.",
        "used": "This link is no longer valid",
        "used.text": "It has been used already, or has expired. If you have just logged in, go back to the "
        "conversation. Otherwise ask there for a new link.",
        "wait": "Not finished yet",
        "wait.text": "Your login could not be completed yet. Please wait a moment, then reload this page.",
        "wrong": "Something went wrong",
        "wrong.text": "Nothing was shared. Please go back to the conversation and try again from there.",
    },
    "de": {
        "done": "Sie sind angemeldet",
        "done.text": "Sie können dieses Fenster schließen und zur Unterhaltung zurückkehren.",
        "may": "Der Assistent darf nun in Ihrem Namen:",
        "code": "Noch ein Schritt",
        "code.text": "Sie sind angemeldet. Zugriff erhält der Assistent erst, wenn Sie diesen Code in Ihre "
        "Unterhaltung tippen:",
        "code.only": "Hat Ihnen jemand den Link zu dieser Seite geschickt? Dann sagen Sie niemandem den "
        "Code, und schließen Sie dieses Fenster: Es wird nichts freigegeben.",
        "code.may": "Mit dem Code erlauben Sie dem Assistenten in Ihrem Namen:",
        "declined": "Sie haben nicht zugestimmt",
        "declined.text": "Es wurde nichts freigegeben. Sie können dieses Fenster schließen und zur "
        "Unterhaltung zurückkehren.",
        "used": "Dieser Link ist nicht mehr gültig",
        "used.text": "Er wurde schon benutzt oder ist abgelaufen. Wenn Sie sich gerade angemeldet "
        "haben, kehren "
        "Sie zur Unterhaltung zurück. Andernfalls bitten Sie dort um einen neuen Link.",
        "wait": "Noch nicht fertig",
        "wait.text": "Ihre Anmeldung konnte noch nicht abgeschlossen werden. Bitte warten Sie einen "
        "Moment, und laden Sie diese Seite dann neu.",
        "wrong": "Etwas ist schiefgegangen",
        "wrong.text": "Es wurde nichts freigegeben. Bitte kehren Sie zur Unterhaltung zurück und "
        "versuchen Sie "
        "es von dort aus noch einmal.",
    },
    "fr": {
        "done": "Vous êtes connecté(e)",
        "done.text": "Vous pouvez fermer cette fenêtre et revenir à la conversation.",
        "may": "L’assistant peut désormais, en votre nom :",
        "code": "Encore une étape",
        "code.text": "Vous êtes connecté(e). L’assistant n’aura accès que lorsque vous aurez tapé ce code "
        "dans votre conversation :",
        "code.only": "Quelqu’un vous a envoyé le lien vers cette page ? Ne communiquez alors ce code à "
        "personne et fermez cette fenêtre : rien ne sera partagé.",
        "code.may": "Avec ce code, vous autorisez l’assistant, en votre nom :",
        "declined": "Vous n’avez pas donné votre accord",
        "declined.text": "Rien n’a été partagé. Vous pouvez fermer cette fenêtre et revenir à la "
        "conversation.",
        "used": "Ce lien n’est plus valable",
        "used.text": "Il a déjà été utilisé ou a expiré. Si vous venez de vous connecter, revenez à la "
        "conversation. Sinon, demandez-y un nouveau lien.",
        "wait": "Pas encore terminé",
        "wait.text": "Votre connexion n’a pas encore pu aboutir. Veuillez patienter un instant, puis "
        "recharger cette page.",
        "wrong": "Un problème est survenu",
        "wrong.text": "Rien n’a été partagé. Veuillez revenir à la conversation et réessayer à partir de là.",
    },
    "es": {
        "done": "Ha iniciado sesión",
        "done.text": "Puede cerrar esta ventana y volver a la conversación.",
        "may": "El asistente puede ahora, en su nombre:",
        "code": "Un paso más",
        "code.text": "Ha iniciado sesión. El asistente solo tendrá acceso cuando escriba este código en su "
        "conversación:",
        "code.only": "¿Alguien le ha enviado el enlace a esta página? Entonces no diga el código a nadie y "
        "cierre esta ventana: no se compartirá nada.",
        "code.may": "Con el código permite al asistente, en su nombre:",
        "declined": "No ha dado su consentimiento",
        "declined.text": "No se ha compartido nada. Puede cerrar esta ventana y volver a la conversación.",
        "used": "Este enlace ya no es válido",
        "used.text": "Ya se ha utilizado o ha caducado. Si acaba de iniciar sesión, vuelva a la "
        "conversación. "
        "De lo contrario, pida allí un enlace nuevo.",
        "wait": "Aún no ha terminado",
        "wait.text": "Todavía no se ha podido completar su inicio de sesión. Espere un momento y vuelva "
        "a cargar esta página.",
        "wrong": "Algo ha salido mal",
        "wrong.text": "No se ha compartido nada. Vuelva a la conversación e inténtelo de nuevo desde allí.",
    },
    "nl": {
        "done": "U bent ingelogd",
        "done.text": "U kunt dit venster sluiten en teruggaan naar het gesprek.",
        "may": "De assistent mag nu namens u:",
        "code": "Nog één stap",
        "code.text": "U bent ingelogd. De assistent krijgt pas toegang als u deze code in uw gesprek typt:",
        "code.only": "Heeft iemand u de link naar deze pagina gestuurd? Geef de code dan aan niemand en "
        "sluit dit venster: er wordt niets gedeeld.",
        "code.may": "Met de code mag de assistent namens u:",
        "declined": "U bent niet akkoord gegaan",
        "declined.text": "Er is niets gedeeld. U kunt dit venster sluiten en teruggaan naar het gesprek.",
        "used": "Deze link is niet meer geldig",
        "used.text": "De link is al gebruikt of verlopen. Hebt u net ingelogd, ga dan terug naar het "
        "gesprek. "
        "Vraag daar anders om een nieuwe link.",
        "wait": "Nog niet klaar",
        "wait.text": "Het inloggen kon nog niet worden voltooid. Wacht even en laad deze pagina dan opnieuw.",
        "wrong": "Er is iets misgegaan",
        "wrong.text": "Er is niets gedeeld. Ga terug naar het gesprek en probeer het van daaruit opnieuw.",
    },
    "he": {
        "done": "התחברת בהצלחה",
        "done.text": "אפשר לסגור את החלון הזה ולחזור לשיחה.",
        "may": "מעכשיו העוזר רשאי, בשמך:",
        "code": "עוד צעד אחד",
        "code.text": "התחברת בהצלחה. העוזר יקבל גישה רק אחרי הקלדת הקוד הזה בשיחה שלך:",
        "code.only": "קיבלת את הקישור לדף הזה ממישהו? אין למסור את הקוד לאיש, ואפשר לסגור את החלון הזה: "
        "דבר לא ישותף.",
        "code.may": "בעזרת הקוד העוזר יהיה רשאי, בשמך:",
        "declined": "לא ניתנה הסכמה",
        "declined.text": "לא שותף דבר. אפשר לסגור את החלון הזה ולחזור לשיחה.",
        "used": "הקישור הזה כבר אינו תקף",
        "used.text": "כבר נעשה בו שימוש, או שפג תוקפו. אם התחברת זה עתה, אפשר לחזור לשיחה. אחרת, יש "
        "לבקש שם קישור חדש.",
        "wait": "עוד לא הסתיים",
        "wait.text": "עדיין לא ניתן היה להשלים את ההתחברות. יש להמתין רגע ואז לטעון מחדש את הדף הזה.",
        "wrong": "משהו השתבש",
        "wrong.text": "לא שותף דבר. יש לחזור לשיחה ולנסות שוב משם.",
    },
}

_RANGE: Final = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9]{1,8})*\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?")
_LONGEST: Final = 200


def language_for(accepted: str) -> str:
    """The one the browser likes best of those there are (RFC 9110 section 12.5.4)."""
    best, liked = DEFAULT, 0.0
    for part in accepted[:_LONGEST].split(","):
        found = _RANGE.fullmatch(part)
        if not found:
            continue
        name, quality = found[1].lower(), float(found[2] or 1)
        name = "he" if name == "iw" else name  # its code before 1989
        if name in LANGUAGES and quality > liked:
            best, liked = name, quality
    return best
