#!/usr/bin/env node
// Compiles WGSL files with Tint, Chrome's compiler, and exits with 1 if it rejects one:
//
//   node .ci/tint-check.mjs FILE.wgsl...
//
// naga, which the program uses, does not check that a whole workgroup reaches every barrier; Tint does.
// Dawn's null backend needs no GPU. Each entry point is also compiled to a pipeline under WebGPU's
// default limits.
//
// npm install --prefix target/tint --no-save webgpu@0.6.2

import { existsSync, readFileSync } from 'node:fs';

const binding = new URL('../target/tint/node_modules/webgpu/index.js', import.meta.url);
const files = process.argv.slice(2);
if (files.length === 0 || !existsSync(binding)) {
  console.error(files.length === 0
    ? 'usage: tint-check.mjs FILE.wgsl...'
    : 'tint-check: Dawn is missing; run: npm install --prefix target/tint --no-save webgpu@0.6.2');
  process.exit(2);
}
const { create } = await import(binding);
// Kept alive to the end: if it were collected, Dawn would abort or hang.
globalThis.gpu = create(['backend=null']);
const adapter = await globalThis.gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: ['subgroups'] });

/** Tint's errors for a file, one line per message. */
async function complaints(file) {
  const source = readFileSync(file, 'utf8');
  // naga rejects the directive and Tint requires it, so add it here, on the first line, which keeps line
  // numbers unchanged.
  const text = source.replace(/\/\/.*$/gm, '');
  const code = /\bsubgroup[A-Z_]/.test(text) ? `enable subgroups; ${source}` : source;

  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const refused = await device.popErrorScope();
  if (refused) {
    return messages.length === 0
      ? [`${file}: ${refused.message}`]
      : messages.map(({ type, lineNum, linePos, message }) => `${file}:${lineNum}:${linePos}: ${type}: ${message}`);
  }
  const found = [];
  for (const [, entryPoint] of text.matchAll(/@compute\b[^{;]*?\bfn\s+(\w+)/g)) {
    try {
      await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint } });
    } catch (error) {
      found.push(`${file}: ${entryPoint}: ${error.message}`);
    }
  }
  return found;
}

let failed = 0;
for (const file of files) {
  const lines = await complaints(file);
  for (const line of lines) console.error(line);
  if (lines.length > 0) failed += 1;
}
console.log(`tint: ${files.length - failed} of ${files.length} shaders accepted`);
process.exit(failed === 0 ? 0 : 1);
