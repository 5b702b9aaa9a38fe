// A real identity provider on loopback, for the tests: `node provider.mjs NODE_MODULES`.
// The first line on stdout is {"issuer": ...}; each line on stdin (rotate | withdraw) is answered by one more. It ends with its stdin.

import { createHash, generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

console.info = console.warn = console.error; // stdout carries answers only

const modules = path.resolve(process.argv[2]);
const { default: Provider } = await import(pathToFileURL(path.join(modules, 'oidc-provider/lib/index.js')));

const names = { 'account-17': 'Ada Lovelace', 'ada@example.org': 'Ada Lovelace' };
const algorithms = {
  RS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
};
const redirect = { redirect_uris: ['http://127.0.0.1/signed-in'], application_type: 'native', token_endpoint_auth_method: 'none' };

let generation = 0;

function newKeys() {
  generation += 1;
  return Object.entries(algorithms).map(([alg, [type, options]]) => ({
    ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: `${alg}-${generation}`,
  }));
}

function configuration(keys) {
  return {
    jwks: { keys },
    cookies: { keys: ['only for tests'] },
    clients: [
      { client_id: 'workbench', ...redirect },
      { client_id: 'portal', subject_type: 'pairwise', ...redirect },
      {
        client_id: 'nightly-build', client_secret: 'build-secret', redirect_uris: [], response_types: [], grant_types: ['client_credentials'],
      },
    ],
    scopes: ['openid', 'profile'],
    subjectTypes: ['public', 'pairwise'],
    pairwiseIdentifier: (ctx, account, client) => createHash('sha256').update(`salt ${client.clientId} ${account}`).digest('hex'),
    findAccount: (ctx, account) => ({ accountId: account, claims: () => ({ sub: account, name: names[account] }) }),
    // What a deployment has to configure, so that people can sign: the sign-in time and the printed name in access tokens.
    extraTokenClaims: (ctx, token) => (token.accountId
      ? { auth_time: ctx.oidc.entities.AuthorizationCode.authTime, name: names[token.accountId] } : undefined),
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, indicator) => {
          const [, audience, alg] = /^urn:(\w+):(\w+)$/.exec(indicator);
          return { scope: '', audience, accessTokenFormat: 'jwt', accessTokenTTL: 600, jwt: { sign: { alg } } };
        },
      },
    },
  };
}

const server = createServer();
await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
const issuer = `http://127.0.0.1:${server.address().port}`;

let current = newKeys();
let handle;

function serve(keys) {
  handle = new Provider(issuer, configuration(keys)).callback();
}

serve(current);
server.on('request', (request, response) => handle(request, response));
console.log(JSON.stringify({ issuer }));

const commands = createInterface({ input: process.stdin });
commands.on('line', (command) => {
  if (command === 'rotate') {
    const before = current;
    current = newKeys();
    serve([...current, ...before]);
  } else if (command === 'withdraw') {
    serve(current);
  }
  console.log(JSON.stringify({ done: command }));
});
commands.on('close', () => process.exit());
