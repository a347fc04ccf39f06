// Export for training: which answers go into the file, and the command that trains on it.
import { session } from "./chat.js";
import { $, copyText, download, h, iconButton, openDialog, toast } from "./dom.js";
import { goodAnswers, trainingLines } from "./files.js";
import { model } from "./settings.js";

const dialog = $("teach");
const choice = () => dialog.querySelector("input:checked").value;

/** The command that trains the model on screen further. Few lines are read many times, among a part of the lessons that
 *  the model had before: without them it would forget how to answer anything else. */
function trainingCommand(name, file) {
  const [, stage, tag] = name?.match(/^nanochat-([a-z]+)-(.+)$/) ?? [null, "sft", ""];
  return [`python -m scripts.chat_sft --source=${stage === "rl" ? "sft" : stage}`, tag && `--source_tag=${tag}`,
    "--model_tag=taught", `--conversations="~/Downloads/${file}*20"`, '--mixture="facts*0.2,talk*0.2"',
    "--device_batch_size=8 --total_batch_size=2048"].filter(Boolean).join(" ");
}

function fill(file = `nanochat-${new Date().toISOString().slice(0, 10)}.jsonl`) {
  const lines = trainingLines(session.chats, choice()).split("\n").length - 1;
  $("teach-lines").textContent = `${lines} conversation${lines === 1 ? "" : "s"} will be in the file.`;
  $("teach-save").disabled = !lines;
  const command = trainingCommand(model()?.id, file);
  const copy = iconButton("copy", "Copy the command", () => copyText(command, copy));
  $("teach-command").replaceChildren(h("code", {}, command), copy);
}

export function openTeach() {
  const number = goodAnswers(session.chats);
  $("teach-good").disabled = !number;
  $(number ? "teach-good" : "teach-all").checked = true;
  $("teach-number").textContent = number ? `(${number})` : "(none yet: mark or correct answers in a conversation)";
  fill();
  openDialog(dialog);
}
dialog.onchange = () => fill();
$("teach-save").onclick = () => {
  const file = download("jsonl", trainingLines(session.chats, choice()));
  fill(file);
  toast(`Saved as ${file}.`);
};
