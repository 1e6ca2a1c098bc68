// What programs write for terminals, as plain text: no escapes, a carriage return writes its line anew.

const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\u0007\u001b]*(?:\u0007|\u001b\\)|[ -/]*[0-Z\\`-~])/g;
// a line's end that may be half a pair, or an escape that may go on in the next piece; a long one never ends
const UNFINISHED = /(?:\r|\u001b(?:\[[0-?]*[ -/]*|[\]PX^_][^\u0007\u001b]{0,2000}\u001b?|[ -/]*)?)$/;
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;

const picture = (control) => (control === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + control.charCodeAt(0)));

/** Takes one stream piece by piece. */
export class Plain {
  #rest = "";
  #line = 0; // how much of the line that is being written was handed out
  #isReturned = false;

  /** Return `{back, text}`: how many characters of what was handed out last are written over, and what to add. */
  take(piece) {
    const whole = this.#rest + piece;
    this.#rest = UNFINISHED.exec(whole)?.[0] ?? "";
    const text = whole.slice(0, whole.length - this.#rest.length).replace(ESCAPES, "").replaceAll("\r\n", "\n");
    let back = 0;
    let made = "";
    const newline = text.indexOf("\n");
    const first = newline < 0 ? text : text.slice(0, newline);
    const parts = first.split("\r");
    // what follows a return takes the line's place; a return at the very end leaves it until more comes
    const last = parts.findLastIndex((part) => part !== "");
    if (last >= 0) {
      if (last > 0 || this.#isReturned) [back, this.#line] = [this.#line, 0];
      this.#isReturned = last < parts.length - 1;
      made = parts[last];
    } else if (parts.length > 1) this.#isReturned = true;
    if (newline < 0) this.#line += made.length;
    else {
      const rest = text.slice(newline).split("\n").map((line) => line.split("\r").findLast((part) => part !== "") ?? "");
      made += rest.join("\n");
      this.#line = rest.at(-1).length;
      this.#isReturned = text.endsWith("\r");
    }
    return { back, text: made.replace(CONTROLS, picture) };
  }
}
