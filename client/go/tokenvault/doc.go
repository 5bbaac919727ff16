// Package tokenvault is the client of the token vault sidecar: it keeps the
// access tokens a consumer delegated to a brand's bots, and gives a valid one
// when you need it.
//
//	vault, err := tokenvault.FromEnvironment() // one for the whole program, for all goroutines
//	…
//	orders := vault.TokenSource("acme", tokenvault.Conversation("c-1"))
//	api := &http.Client{Transport: &tokenvault.Transport{Source: orders}}
//	answer, err := api.Get("https://api.acme.example/orders")
//	if errors.Is(err, tokenvault.ErrConsentRequired) {
//		// never asked, expired, or withdrawn: ask (again) with StartDelegation
//	}
//
// Tokens, links, and ids of people are in no error's text, and formatting a
// Token or a Challenge shows neither.
package tokenvault
