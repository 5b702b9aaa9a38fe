// Prints every error that the parser of the AsyncAPI project finds in the document, and ends with 1 if there is one.
// node validate_asyncapi.mjs NODE_MODULES DOCUMENT

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const [modules, file] = process.argv.slice(2);
const { Parser } = createRequire(resolve(modules, "index.js"))("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: resolve(file) });
const errors = diagnostics.filter((one) => one.severity === 0);
for (const { path, message } of errors) console.log(`${path.join(".")}: ${message}`);
if (!document && !errors.length) console.log("the document could not be read");
process.exit(document && !errors.length ? 0 : 1);
