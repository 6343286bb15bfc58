// The smallest test: does the box see a picture? node smallest_test.js [FILE or address] [--url URL]

import { client, image, model, sample, text, words } from "./common.js";

try {
  const content = [image(words[0] ?? sample("first.png")), text("What is in this picture?")];
  const answer = await client.chat.completions.create({
    model,
    messages: [{ role: "user", content }],
    max_tokens: 200,
  });
  console.log("It works:", answer.choices[0].message.content);
} catch (error) {
  console.error("It does not work:", error.status ?? "", error.message);
  process.exitCode = 1;
}
