// Shows the option of each choice that is picked; a browser may remember the pick when the page is loaded again.
for (const choice of document.querySelectorAll(".choice")) {
  const picker = choice.querySelector(":scope > .picker");
  const options = choice.querySelectorAll(":scope > .option");
  const show = () => {
    const picked = picker.querySelector("input:checked, select").value;
    options.forEach((option, index) => (option.hidden = String(index) !== picked));
  };
  picker.addEventListener("change", show);
  show();
}
