// A bot that asks the brand's API as a consumer, who logs in where it must.
//
// Its argument is the API's URL; the variables are those that `make run` prints.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"

	"tokenvault.example/client/go/tokenvault"
)

const brand = "acme"

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: bot URL, of the brand's API")
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address string) error {
	vault, err := tokenvault.FromEnvironment()
	if err != nil {
		return err
	}
	defer func() { _ = vault.Close() }()
	conversation := tokenvault.Conversation("c-go")
	source := vault.TokenSource(brand, conversation)
	api := &http.Client{Transport: &tokenvault.Transport{Source: source}}
	answer, err := api.Get(address)
	if errors.Is(err, tokenvault.ErrConsentRequired) { // never asked, or expired
		if err = login(ctx, vault, conversation); err != nil {
			return err
		}
		answer, err = api.Get(address)
	}
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	fmt.Println("the brand's API answered", answer.StatusCode)
	return nil
}

// login waits until the consumer has come back, to the sidecar or to whoever completes the delegation.
func login(ctx context.Context, vault *tokenvault.Client, conversation tokenvault.Context) error {
	challenge, err := vault.StartDelegation(ctx, tokenvault.Delegation{Brand: brand, Context: conversation})
	if err != nil {
		return err
	}
	fmt.Println("please log in:", challenge.AuthorizationURL)
	_, err = vault.WatchDelegation(ctx, challenge.DelegationID)
	return err
}
