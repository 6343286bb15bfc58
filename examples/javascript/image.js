// A question about a picture: node image.js [FILE or http(s) address] ["QUESTION"] [--url URL]

import { client, image, model, sample, text, words } from "./common.js";

const picture = words[0] ?? sample("first.png");
const question = words[1] ?? "What is in this picture?";

const answer = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: [image(picture), text(question)] }],
  max_tokens: 1024,
  temperature: 0.3,
});
console.log(answer.choices[0].message.content);
