// Videos from recordings: upload, ask, fetch.
const ASK_EVERY_MS = 700;

export async function make({ audio, picture, face, prompt, scale, headers, onprogress }) {
  const form = new FormData();
  form.append("audio", audio);
  if (picture) form.append("image", picture);
  else form.append("face", face);
  form.append("prompt", prompt);
  form.append("scale", scale);
  let told = await answer(fetch("api/videos", { method: "POST", body: form, headers }));
  const place = `api/videos/${told.id}`;
  while (told.state === "waiting" || told.state === "making") {
    onprogress(told);
    await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
    told = await answer(fetch(place, { headers }));
  }
  if (told.state === "failed") throw new Error(told.error);
  const video = await fetch(`${place}/file`, { headers });
  const file = await video.blob();
  await fetch(place, { method: "DELETE", headers });
  return file;
}

async function answer(asked) {
  const response = await asked;
  const told = await response.json();
  if (!response.ok) throw new Error(told.error ?? `the server answered ${response.status}`);
  return told;
}
