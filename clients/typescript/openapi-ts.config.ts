import { defineConfig } from "@hey-api/openapi-ts"

export default defineConfig({
  input: "../../gateway/openapi.json",
  output: { path: "src/generated", importFileExtension: ".js", clean: true },
  plugins: ["@hey-api/client-fetch"],
})
