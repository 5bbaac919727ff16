/**
 * The client of the token vault sidecar: it keeps the access tokens a consumer delegated to a brand's bots, and gives a
 * valid one when you need it. Begin at {@link tokenvault.client.TokenVaultClient}.
 */
package tokenvault.client;
