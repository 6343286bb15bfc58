// Fields of an invoice as JSON: node invoice_to_json.js [FILE] [--url URL]

import { client, image, model, sample, text, words } from "./common.js";

const line = { type: "string", maxLength: 300 };
const schema = {
  type: "object",
  properties: {
    number: line,
    date: line,
    seller: line,
    buyer: line,
    items: { type: "array", items: line, maxItems: 100 },
    amount_with_tax: line,
    tax_rate: line,
    tax: line,
  },
  required: ["number", "date", "seller", "buyer", "items", "amount_with_tax", "tax_rate", "tax"],
  additionalProperties: false,
};
const question = text(
  "Read this invoice. Copy every value as it is printed; where there is none, write " +
    '"not found". Answer with JSON only.',
);

const answer = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: [image(words[0] ?? sample("invoice.png")), question] }],
  max_tokens: 1024,
  temperature: 0.1,
  response_format: { type: "json_schema", json_schema: { name: "invoice", strict: true, schema } },
});
console.log(JSON.parse(answer.choices[0].message.content));
