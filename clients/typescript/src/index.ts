/** A client of ArtStore at one address: the operations of its OpenAPI document, and `connect`, which logs in. */
import { type Client, createClient, createConfig } from "./generated/client/index.js"
import { giveToken } from "./generated/sdk.gen.js"
import type { ClientCredentials } from "./generated/types.gen.js"

export type { Client }
export * from "./generated/index.js"

/** A token is renewed so long before it expires, because a request may wait before it is looked at. */
const RENEWED_BEFORE_MS = 60_000

/**
 * A client to hand to every operation as `client`. It fetches a token before the first request, and a new one before that
 * expires; requests that are sent at once share it. A login that fails rejects the request with the server's `Problem`.
 */
export function connect(baseUrl: string, credentials: ClientCredentials): Client {
  const login = createClient(createConfig({ baseUrl }))
  let token: Promise<string> | undefined
  let renewAtMs = 0

  async function fetchToken(): Promise<string> {
    const { data } = await giveToken({ client: login, body: credentials, throwOnError: true })
    renewAtMs = Date.now() + data.expires_in * 1000 - RENEWED_BEFORE_MS
    return data.access_token
  }

  function currentToken(): Promise<string> {
    if (token === undefined || Date.now() >= renewAtMs) {
      renewAtMs = Infinity // until the answer says
      token = fetchToken().catch((problem: unknown) => {
        token = undefined
        throw problem
      })
    }
    return token
  }

  const client = createClient(createConfig({ baseUrl, auth: currentToken }))
  client.interceptors.response.use((response) => {
    if (response.status === 401) token = undefined // revoked before its time: the next request logs in again
    return response
  })
  return client
}
