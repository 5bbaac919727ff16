// A bot: shows the consumer a link, waits for the consent, then calls the brand's API.
// node bot.mjs BRAND CONVERSATION URL, with the TOKENVAULT_* variables that `make run` prints.

import { ConsentRequired, TokenVaultClient } from "tokenvault";

const [brand, conversation, url] = process.argv.slice(2);
const vault = TokenVaultClient.fromEnvironment();
const orders = vault.tokenSource(brand, { conversation });
try {
  await orders.token();
} catch (error) {
  if (!(error instanceof ConsentRequired)) throw error;
  await vault.challenge(brand, { conversation }, (link) => console.log(`please log in: ${link}`));
}
const answer = await orders.fetch(url);
console.log(`the brand's API answered ${answer.status}`);
vault.close();
