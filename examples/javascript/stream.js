// The answer word by word, as it is made: node stream.js ["QUESTION"] [--url URL]

import { client, model, words } from "./common.js";

const question = words[0] ?? "Explain in three sentences what a lens does.";
const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: question }],
  max_tokens: 512,
  stream: true,
  thinking: "low",
});
for await (const event of stream) {
  process.stdout.write(event.choices[0]?.delta?.content ?? "");
}
process.stdout.write("\n");
