// A conversation: a picture first, then a question without one. The server keeps no conversation,
// so everything that was said is sent again, the picture too.
//
// node turns.js [FILE] [--url URL]

import { client, image, model, sample, text, words } from "./common.js";

const picture = words[0] ?? sample("chart.png");
const turns = [
  [image(picture), text("What data does this chart show?")],
  "Where does the trend point for the next month?",
];

const messages = [];
for (const content of turns) {
  messages.push({ role: "user", content });
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 512 });
  const said = answer.choices[0].message.content;
  messages.push({ role: "assistant", content: said });
  console.log(said);
}
