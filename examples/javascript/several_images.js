// Two or more pictures compared: node several_images.js [FILE FILE ...] [--url URL]

import { client, image, model, sample, text, words } from "./common.js";

const pictures = words.length > 0 ? words : [sample("first.png"), sample("second.png")];
const question = text("What changed from the first picture to the second?");

const answer = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: [...pictures.map(image), question] }],
  max_tokens: 1024,
  temperature: 0.3,
});
console.log(answer.choices[0].message.content);
