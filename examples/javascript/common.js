// What the examples share: the client, and a file as a part of a message.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import OpenAI from "openai";

const { values, positionals } = parseArgs({
  options: { url: { type: "string" } },
  allowPositionals: true,
});

export const model = "Step3-VL-10B";
export const words = positionals;
export const connection = {
  baseURL: values.url ?? process.env.STEP3VL_URL ?? "http://localhost:7860/api/v1",
  apiKey: process.env.STEP3VL_API_KEY ?? "none",
};
export const client = new OpenAI(connection);

export function sample(name) {
  return fileURLToPath(new URL(`../pictures/${name}`, import.meta.url));
}

export function text(said) {
  return { type: "text", text: said };
}

// An http(s) address goes as it is, and the server fetches it; a file goes as base64.
export function image(source) {
  const onTheWeb = /^https?:/.test(source);
  const url = onTheWeb
    ? source
    : `data:image/jpeg;base64,${readFileSync(source).toString("base64")}`;
  return { type: "image_url", image_url: { url } };
}
