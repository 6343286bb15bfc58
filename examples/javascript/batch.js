// The same question about many pictures, five of them at a time. One that fails does not stop the
// others.
//
// node batch.js [FILE ...] [--url URL]

import { client, image, model, sample, text, words } from "./common.js";

const AT_ONCE = 5;
const samples = ["first.png", "second.png", "invoice.png", "maths.png", "chart.png"];
const pictures = words.length > 0 ? words : samples.map(sample);

async function ask(picture) {
  const answer = await client.chat.completions.create({
    model,
    messages: [{ role: "user", content: [image(picture), text("What is in this picture?")] }],
    max_tokens: 512,
  });
  return answer.choices[0].message.content;
}

const answers = new Array(pictures.length);
let next = 0;
async function work() {
  while (next < pictures.length) {
    const number = next++;
    try {
      answers[number] = await ask(pictures[number]);
    } catch (error) {
      answers[number] = `failed: ${error.message}`;
      process.exitCode = 1;
    }
  }
}
await Promise.all(Array.from({ length: AT_ONCE }, work));
pictures.forEach((picture, number) => console.log(`${picture}: ${answers[number]}`));
